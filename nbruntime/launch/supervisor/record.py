"""The public record of a server: one small file without secrets in the server's folder."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any, Self, get_origin, get_type_hints

from .processes import ProcessId

__all__ = ["FILE", "LOG", "ServerRecord"]

FILE = "server.json"
"""Name of the record in the server's folder."""

LOG = "server.log"
"""Name of the log in the server's folder."""


@dataclass(frozen=True)
class ServerRecord:
    """Description of a server, as stored in its folder.

    Parameters
    ----------
    name, directory : str
        Its name, unique among a user's running servers; its folder, also the tag of its processes.
    owner, supervisor, server : ProcessId
        The process that started it, and those that are None until they are started.
    machine : str
        The machine or container in which the pids are valid.
    url, engine, model : str
        Where it answers, its kind, and its model as it was asked for.
    arguments : dict
        Its arguments, to tell whether another launch would be the same.
    keep_alive : bool
        Whether it outlives its owner.
    started, state : float, str
        Seconds since 1970; ``starting``, ``ready`` or ``stopping``.
    """

    name: str
    directory: str
    owner: ProcessId
    machine: str
    url: str = ""
    engine: str = ""
    model: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    keep_alive: bool = False
    started: float = 0.0
    state: str = "starting"
    supervisor: ProcessId | None = None
    server: ProcessId | None = None

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

        Raises
        ------
        TypeError, ValueError
            If it is not a record.
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
