"""Starting, watching and stopping a server process.

`supervisor` is a program of its own between the kernel and the server; `process` is the owner's side of it.
`ports` claims the port, `engines` knows how each kind of server is started, `readiness` watches it start.
"""
