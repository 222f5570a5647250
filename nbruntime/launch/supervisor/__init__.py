"""Stands between a kernel and the server that it started, and ends the server when the kernel ends.

A program of its own, run by its file name: ``python -I -S .../supervisor/__main__.py``. It imports the
standard library and itself alone, by relative names, so that any interpreter can run it. Its owner starts it
in a new session and writes one line of JSON to its stdin, the `order.Order`. It starts the server in a
further session, so that the SIGINT of a kernel's interrupt, which goes to the kernel's process group, reaches
neither of them.

It watches its owner in three ways at once, because each alone has a hole:

- the end of stdin, which does not come while a fork of the owner holds the pipe open;
- a change of its parent's pid, looked at every quarter of a second;
- a pidfd of the owner, which only Linux has.

When the owner is gone, asks for it with the line ``stop``, or the server ends by itself, the whole tree of
the server goes: SIGTERM to its process group, a grace period, SIGKILL to every descendant in any session.
On Linux the supervisor is a subreaper, so no descendant can slip out of the tree, and the server dies with it
should it be killed itself. A server that is kept alive has no owner to watch: it goes at ``stop``, by its own
end, or when its supervisor gets a SIGTERM.

The record in the server's folder (`record.ServerRecord`) is how other kernels find it. The supervisor keeps
it up to date, ``ready`` on stdin included, and removes it with the folder.

It writes events to stdout, one JSON object a line: ``started`` (pid), ``failed`` (text: the server could not
be executed), ``line`` (text: a line of the server's output that matches `Order.watch`), ``stopping``
(somebody else asked for the end), ``exited`` (code, negative for a signal, as in `subprocess`) and ``gone``
(the tree is no more). It never waits for a reader.
"""
