"""Starting, finding, watching and stopping a server process.

`launcher` turns arguments into a server that takes requests: `engines` has the two kinds of server, `ports`
claims the port, `readiness` waits, `phases` reports progress. A `server` is a `process` of this process, or
an `attached` one that another process started. The `supervisor` is a separate program between the kernel and
the server. `registry` keeps the records of this user's servers; `servers` lists and stops them.
"""
