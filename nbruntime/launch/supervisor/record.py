"""The public record of a server: one small file without secrets in the server's folder."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any, Self, get_origin, get_type_hints

from .processes import ProcessId

__all__ = ["FILE", "KEY", "LOG", "ServerRecord"]

# The files in a server's folder.
FILE = "server.json"
KEY = "api_key"  # if it was made by the launcher
LOG = "server.log"


@dataclass(frozen=True)
class ServerRecord:
    """Description of a server, as stored in its folder."""

    name: str  # unique among a user's running servers
    directory: str  # also the tag of its processes
    owner: ProcessId  # the process that started it
    machine: str  # the machine or container in which the pids are valid
    url: str = ""
    engine: str = ""
    model: str = ""  # as it was asked for, or once it is ready as the server names it
    arguments: dict[str, Any] = field(default_factory=dict)  # to compare with another launch
    keep_alive: bool = False
    named: bool = False  # whether the name was given, not made
    notebook: str = ""  # file name of the owner's notebook, if known
    started: float = 0.0  # seconds since 1970
    state: str = "starting"  # or ready, or stopping
    supervisor: ProcessId | None = None
    server: ProcessId | None = None

    @property
    def started_by(self) -> str:
        """The notebook that started it where that is known, else the process."""
        return self.notebook or f"process {self.owner.pid}"

    def write(self) -> None:
        """Write the record into the folder, atomically and for this user only."""
        path = os.path.join(self.directory, FILE)
        part = path + ".part"
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(asdict(self), file)
        os.replace(part, path)

    @classmethod
    def read(cls, directory: str) -> Self | None:
        """Read the record of a folder; None if there is no valid one."""
        with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
            with open(os.path.join(directory, FILE), encoding="utf-8") as file:
                record = cls.from_dict(json.load(file))
            # It may have been written by another version, but never for another folder.
            return record if record.directory == directory else None
        return None

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Make a record from its JSON object; fields of later versions are ignored.

        Raises TypeError or ValueError if it is not a record.
        """
        if not isinstance(values, dict):
            raise TypeError(f"a record is an object, not {type(values).__name__}")
        given = {name: value for name, value in values.items() if name in _KINDS}
        for name in ("owner", "supervisor", "server"):
            if given.get(name) is not None:
                pid, start = given[name]
                given[name] = ProcessId(int(pid), str(start))
        record = cls(**given)
        for name, kind in _KINDS.items():
            if not isinstance(value := getattr(record, name), kind):
                raise TypeError(f"{name} of a record is {kind}, not {value!r}")
        return record


_KINDS = {
    name: dict if get_origin(kind) is dict else kind for name, kind in get_type_hints(ServerRecord).items()
}
"""The type of each field."""
