"""The servers of this user: a folder for each, with its record and its log.

All are in one private folder below the temporary folder. A launch makes its folder under a lock, so that
names are unique, and removes what killed supervisors left behind. Records are replaced as a whole, so they
can be read without the lock.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from nbruntime.errors import ArgumentValueError, LaunchError
from nbruntime.launch.supervisor import system
from nbruntime.launch.supervisor.processes import (
    ProcessId,
    identify,
    is_running,
    kill_orphans,
    send,
    tagged_pids,
    wait_for_end,
)
from nbruntime.launch.supervisor.record import FILE, KEY, LOG, ServerRecord
from nbruntime.secrets import Secret

__all__ = [
    "RESERVED",
    "NameTaken",
    "claim",
    "clear",
    "end",
    "find",
    "folder",
    "is_mine",
    "key_of",
    "records",
    "sweep",
]

RESERVED = ("all", "everywhere", "orphans")
"""Words for `nbruntime.stop` that cannot be names."""

STOP_SECONDS = 6.0  # for a supervisor to end its process tree, before it is killed itself
START_SECONDS = 60.0  # for an owner to start a supervisor; it may have been interrupted
CLEAR_SECONDS = 1.5  # to look for processes that a killed supervisor left behind


class NameTaken(Exception):
    """A running server has the name; `record` is its record."""

    def __init__(self, record: ServerRecord) -> None:
        super().__init__(record.name)
        self.record = record


def folder() -> Path:
    """Return the folder of this user's servers, made if needed; LaunchError if other users can read it."""
    path = Path(tempfile.gettempdir(), f"nbruntime-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o170077 != 0o040000:
        raise LaunchError(
            "The folder of the servers is not yours alone",
            where=str(path),
            hint="Remove it or run `chmod 700` on it, or set TMPDIR to a folder of your own.",
        )
    return path


def claim(
    name: str | None = None, *, stem: str = "server", key: Secret | None = None, **description: Any
) -> ServerRecord:
    """Make the folder of a server that is about to start, with an empty log; it claims the server's name.

    Raises `NameTaken` if a running server has the name; without a name, makes one from `stem`. The folder
    keeps the `key` for `key_of`. The description is fields of the `ServerRecord`.
    """
    owner = identify(os.getpid())
    assert owner is not None
    named = name is not None
    with exclusive():
        sweep()
        taken = {record.name: record for record in records()}
        if name is None:
            name = _free_name(stem, taken)
        elif name in taken:
            raise NameTaken(taken[name])
        directory = tempfile.mkdtemp(prefix=f"{name}-", dir=folder())
        record = ServerRecord(
            name=name,
            directory=directory,
            owner=owner,
            machine=system.machine(),
            started=time.time(),
            named=named,
            notebook=_notebook(),
            **description,
        )
        try:
            Path(directory, LOG).touch(0o600)
            if key is not None:
                Path(directory, KEY).touch(0o600)
                Path(directory, KEY).write_text(key.reveal() or "")
            record.write()
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return record


def key_of(record: ServerRecord) -> str | None:
    """Return the API key that was made for a server; None if none was, or the server has ended."""
    with contextlib.suppress(OSError):
        return Path(record.directory, KEY).read_text()
    return None


def exclusive() -> contextlib.AbstractContextManager[None]:
    """Hold the lock for making and sweeping folders."""
    return system.exclusive(str(folder() / "lock"))


def check_name(name: str) -> None:
    """Raise ArgumentValueError if the name is not valid for a server."""
    if name in RESERVED or not re.fullmatch(r"[\w][\w.+ -]{0,63}", name):
        raise ArgumentValueError(
            f"name={name!r} cannot be a server's name",
            hint=f"Take letters, digits, . _ - + and spaces, at most 64, and not {', '.join(RESERVED)}.",
        )


def _free_name(stem: str, taken: dict[str, ServerRecord]) -> str:
    stem = re.sub(r"[^\w.+-]+", "-", stem).strip("-.")[:48] or "server"
    candidates = (stem if number == 1 else f"{stem}-{number}" for number in range(1, len(taken) + 3))
    return next(name for name in candidates if name not in taken and name not in RESERVED)


def _notebook() -> str:
    """Return the file name of the notebook whose kernel this is; empty if it is not known."""
    # Jupyter's server gives the kernel its path, VS Code puts it among the variables.
    path = vars(sys.modules["__main__"]).get("__vsc_ipynb_file__") or os.environ.get("JPY_SESSION_NAME")
    return os.path.basename(path) if isinstance(path, str) else ""


def records() -> list[ServerRecord]:
    """Return the records of this user's servers on this machine, the oldest first."""
    found = [ServerRecord.read(str(path)) for path in _folders()]
    here = system.machine()
    return sorted(
        (record for record in found if record is not None and record.machine == here),
        key=lambda record: record.started,
    )


def find(name: str) -> ServerRecord | None:
    """Return the record of the running server of that name, or None."""
    return next((record for record in records() if record.name == name and is_held(record)), None)


def is_held(record: ServerRecord) -> bool:
    """Return True if the server's supervisor is alive, or its owner before there is a supervisor."""
    if record.supervisor is None:
        # On a full disk the supervisor may be missing from the record.
        recent = time.time() - record.started < START_SECONDS
        return is_running(record.owner) and (recent or any(tagged_pids(record.directory)))
    return is_running(record.supervisor)


def is_mine(record: ServerRecord) -> bool:
    """Return True if this process started the server; false in a fork of it."""
    return record.owner == identify(os.getpid())


def is_orphan(record: ServerRecord) -> bool:
    """Return True if the supervisor is gone, or stuck although the owner has ended."""
    return not is_held(record) or not (record.keep_alive or is_running(record.owner))


def _folders() -> list[Path]:
    with os.scandir(folder()) as entries:
        return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]


def sweep() -> list[ServerRecord]:
    """Remove what killed supervisors left behind, and return their records; call it under the lock."""
    swept = []
    here = system.machine()
    for path in _folders():
        record = ServerRecord.read(str(path))
        if record is None:
            if not (path / FILE).exists():  # its owner was killed before it had written one
                shutil.rmtree(path, ignore_errors=True)
        elif record.machine == here and not is_held(record):
            clear(record)
            swept.append(record)
    return swept


def clear(record: ServerRecord) -> None:
    """Kill the process tree and remove the folder that a killed supervisor left behind."""
    record = ServerRecord.read(record.directory) or record
    deadline = time.monotonic() + CLEAR_SECONDS
    while kill_orphans(record.directory, record.server) and time.monotonic() < deadline:
        time.sleep(0.02)
    shutil.rmtree(record.directory, ignore_errors=True)


def end(record: ServerRecord) -> None:
    """Stop a server of any kernel, through its supervisor if that is alive."""
    supervisor = _await_supervisor(record)
    if supervisor is not None:
        send(supervisor, signal.SIGTERM)
        if not wait_for_end(supervisor, STOP_SECONDS):
            send(supervisor, signal.SIGKILL)
            wait_for_end(supervisor, CLEAR_SECONDS)
    if os.path.isdir(record.directory):  # the supervisor did not end in order
        clear(record)


def _await_supervisor(record: ServerRecord) -> ProcessId | None:
    """Wait for the supervisor of a server that is being started; None if it has none."""
    deadline = time.monotonic() + STOP_SECONDS
    current: ServerRecord | None = record
    while current and not current.supervisor and is_held(current) and time.monotonic() <= deadline:
        time.sleep(0.02)
        current = ServerRecord.read(record.directory)
    return current.supervisor if current else None
