"""What a supervisor is told on its stdin."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["LaunchSpec"]


@dataclass(frozen=True)
class LaunchSpec:
    """What a supervisor starts, and how; the server's kind gives the first five, `ServerProcess` the rest."""

    argv: Sequence[str]  # without secrets, since every user of the machine can read it
    env: dict[str, str | None] = field(default_factory=dict, repr=False)  # None removes a variable
    pass_fds: Sequence[int] = ()  # descriptors that the server inherits, such as a listening socket
    watch: str | None = None  # regular expression for the lines of output that are reported as events
    secrets: Sequence[str] = field(default=(), repr=False)  # masked in the log and in events
    owner: int | None = None  # its end ends the server; None for a server that is kept alive
    directory: str = ""  # folder of the server, removed when its process tree has ended
    log: str = ""
    record: dict[str, Any] = field(default_factory=dict)  # if empty, no record is written
    cwd: str | None = None
    grace: float = 0.5  # seconds between SIGTERM and SIGKILL
    log_limit: int = 8 << 20  # bytes

    def to_line(self) -> bytes:
        """Encode as the line that goes to the supervisor's stdin."""
        return json.dumps(asdict(self)).encode() + b"\n"
