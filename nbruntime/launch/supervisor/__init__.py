"""Stands between a kernel and the server that it started, and ends the server when the kernel ends.

A separate program: ``python -I -S .../supervisor/__main__.py``. It imports only the standard library and
itself, by relative names, so that any interpreter can run it. Its owner starts it in a new session and writes
a `launch_spec.LaunchSpec` to its stdin. It starts the server in another session, so that an interrupt of the
kernel reaches neither of them.

It watches its owner in three ways, because each alone has a gap: the end of stdin, which does not come while
a fork of the owner holds the pipe open; its parent's pid, checked every quarter of a second; and a pidfd of
the owner, which a sandbox may forbid. When the owner is gone or sends the line ``stop``, or the server ends
by itself, the whole process tree is ended: SIGTERM to its process group, a grace period, SIGKILL to every
descendant in any session. The supervisor is a subreaper, so no descendant leaves the tree. A server that is
kept alive has no owner: it ends at ``stop``, by itself, or when its supervisor gets a SIGTERM.

The line ``ready`` on stdin marks the server as ready in its record. Events go to stdout, one JSON object per
line, without waiting for a reader: ``started`` (pid), ``failed`` (text: the server could not be executed),
``line`` (text: output that matches `LaunchSpec.watch`), ``stopping`` (stopped by another process), ``exited``
(code, negative for a signal) and ``gone`` (the process tree has ended).
"""
