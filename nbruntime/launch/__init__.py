"""Starting, finding, watching and stopping a server process.

`launching` goes from arguments to a server that takes requests: `engines` knows how each kind is started,
`ports` claims the port, `readiness` watches it start, `phases` tells how far it is. `server` is a server as
its user sees it: `process` one of this process, `attached` one that another process has kept alive. Between
the kernel and the server stands `supervisor`, a program of its own. `registry` knows the servers of this user
in every kernel, and `servers` lists and stops them.
"""
