"""What a supervisor is told on its stdin."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["LaunchSpec"]


@dataclass(frozen=True)
class LaunchSpec:
    """What a supervisor starts, and how; the server's kind gives the first five, `ServerProcess` the rest.

    Parameters
    ----------
    argv : sequence of str
        The server's command; without secrets, since every user of the machine can read it.
    env : dict of str to str or None
        Additions to the inherited environment; None removes a variable.
    pass_fds : sequence of int
        Inherited file descriptors that the server gets, such as a listening socket.
    watch : str or None
        Regular expression for the lines of output that are reported as events.
    secrets : sequence of str
        Texts that are masked in the log and in events.
    owner : int or None
        Pid of the process whose end ends the server; None for a server that is kept alive.
    directory, log : str
        Folder of this server, removed when its process tree has ended; file for its output.
    record : dict
        Fields of the server's `ServerRecord`; if empty, no record is written.
    cwd : str or None
        Working directory of the server.
    grace, log_limit : float, int
        Seconds between SIGTERM and SIGKILL; maximum size of the log in bytes.
    """

    argv: Sequence[str]
    env: dict[str, str | None] = field(default_factory=dict, repr=False)
    pass_fds: Sequence[int] = ()
    watch: str | None = None
    secrets: Sequence[str] = field(default=(), repr=False)
    owner: int | None = None
    directory: str = ""
    log: str = ""
    record: dict[str, Any] = field(default_factory=dict)
    cwd: str | None = None
    grace: float = 0.5
    log_limit: int = 8 << 20

    def to_line(self) -> bytes:
        """Encode as the line that goes to the supervisor's stdin."""
        return json.dumps(asdict(self)).encode() + b"\n"
