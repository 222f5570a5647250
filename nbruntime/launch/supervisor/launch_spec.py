"""The instructions that a supervisor gets."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["LaunchSpec"]


@dataclass
class LaunchSpec:
    """What a supervisor starts, and how.

    Parameters
    ----------
    owner : int or None
        Pid of the process whose end ends the server; None for a server that is kept alive.
    argv : list of str
        The server's command.
    directory : str
        Folder of this server; removed when its process tree has ended.
    log : str
        File that gets the server's output.
    record : dict
        Fields of the server's `ServerRecord`; if empty, no record is written.
    cwd : str or None
        Working directory of the server.
    env : dict of str to str or None
        Additions to the inherited environment; None removes a variable.
    secrets : list of str
        Texts that are masked in the log and in events.
    pass_fds : list of int
        Inherited file descriptors that the server gets.
    watch : str or None
        Regular expression for the lines that are reported as events.
    grace : float
        Seconds between SIGTERM and SIGKILL.
    log_limit : int
        Maximum size of the log in bytes; beyond it, its middle is left out.
    """

    owner: int | None
    argv: list[str]
    directory: str
    log: str
    record: dict[str, Any] = field(default_factory=dict)
    cwd: str | None = None
    env: dict[str, str | None] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)
    pass_fds: list[int] = field(default_factory=list)
    watch: str | None = None
    grace: float = 0.5
    log_limit: int = 8 << 20

    def to_line(self) -> bytes:
        """Encode as the line that goes to the supervisor's stdin.

        Examples
        --------
        >>> line = LaunchSpec(owner=1, argv=["server"], directory="/run/x", log="/run/x/log").to_line()
        >>> LaunchSpec(**json.loads(line)).argv
        ['server']
        """
        return json.dumps(asdict(self)).encode() + b"\n"
