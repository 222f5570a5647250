"""A server process, of this process or of another one."""

from __future__ import annotations

import os
import threading
import weakref
from abc import ABC, abstractmethod
from pathlib import Path

from nbruntime.launch import registry
from nbruntime.launch.holders import holders_of
from nbruntime.launch.phases import Phase, Phases
from nbruntime.launch.supervisor import system
from nbruntime.launch.supervisor.record import LOG, ServerRecord

__all__ = ["ExitNotifier", "Server", "end_server", "open_server"]

ERROR_LOG_LINES = 200
"""Lines of the log that an error keeps."""

_TAIL_BLOCK = 1 << 16


class ExitNotifier:
    """Tells `Phases` and waiting threads when a server has exited.

    The thread that waits for the exit holds this object, not the `Server`, which can be collected then.
    """

    def __init__(self) -> None:
        self.gone = threading.Event()  # set when nothing is left of the server
        self.asked = False  # whether the server was asked to stop
        self._lock = threading.Lock()
        # Weakly: many cells may use one server, and the phases of earlier cells are not needed.
        self._observers: weakref.WeakSet[Phases] = weakref.WeakSet()

    def subscribe(self, phases: Phases) -> None:
        """Notify `phases` when the server exits, as long as they are referenced elsewhere."""
        with self._lock:
            self._observers.add(phases)
        if self.gone.is_set():
            phases.enter(self.phase)

    def notify(self) -> None:
        """Notify all that the server's process tree is gone."""
        self.gone.set()
        with self._lock:
            observers = list(self._observers)
        for phases in observers:
            phases.enter(self.phase)

    @property
    def phase(self) -> Phase:
        """The final phase."""
        return Phase("stopped" if self.asked else "died")


class Server(ABC):
    """A server under its supervisor: its state, its log and its end; OSError if its log no longer exists."""

    pid: int
    supervisor_pid: int  # of the supervisor, which is the server's parent

    def __init__(self, record: ServerRecord, end: ExitNotifier) -> None:
        self.record = record
        self.users: weakref.WeakSet[object] = weakref.WeakSet()  # the objects that keep this one
        self._owner = os.getpid()
        self._end = end
        # Stays readable when the file has been removed with the server.
        self._log = Path(record.directory, LOG).open("rb", buffering=0)  # noqa: SIM115
        weakref.finalize(self, self._log.close).atexit = False

    @property
    def held_by(self) -> str:
        """Where the notebook holds its users, such as ``runtime, Out[3]``; empty if that is not known."""
        return ", ".join(holders_of(list(self.users)))

    def _register(self) -> None:
        """Let `open_server` return this object: the last step of its constructor."""
        _open_servers[self.record.directory] = self

    @property
    @abstractmethod
    def running(self) -> bool:
        """True until the server itself ends."""

    @abstractmethod
    def exit_cause(self) -> str:
        """Return how the server ended; empty while it runs."""

    @abstractmethod
    def stop(self) -> None:
        """Stop the server with its whole process tree, and wait until nothing is left.

        Does nothing when called again, or in a fork of the process that made this object.
        """

    @property
    def is_owner(self) -> bool:
        """True if this process made this object; false in a fork."""
        return self._owner == os.getpid()

    @property
    def stopped(self) -> bool:
        """True if the server was asked to stop."""
        return self._end.asked

    @property
    def usable(self) -> bool:
        """True if the server runs and was not asked to stop."""
        return self.running and not self.stopped

    @property
    def gone(self) -> bool:
        """True when nothing is left of the server."""
        return self._end.gone.is_set()

    def wait_until_gone(self, timeout: float | None = None) -> bool:
        """Wait until nothing is left of the server, at most `timeout` seconds; returns `gone`."""
        return self._end.gone.wait(timeout)

    def report_to(self, phases: Phases) -> None:
        """Enter ``stopped`` or ``died`` in `phases` when the server ends; holds them weakly."""
        self._end.subscribe(phases)

    def owns(self, pid: int) -> bool:
        """Return True if a process belongs to the server's tree."""
        table = system.read_processes()
        while pid in table:
            pid = table[pid].parent
            if pid == self.supervisor_pid:
                return True
        return False

    def logs(self, lines: int | None = None) -> str:
        """Read the server's output, also after its end.

        Parameters
        ----------
        lines : int, optional
            Only the last lines. A progress bar counts as its last state.
        """
        if lines is not None and lines <= 0:
            return ""
        fd = self._log.fileno()
        size = os.fstat(fd).st_size
        block = size if lines is None else _TAIL_BLOCK
        data = b""
        while size > 0 and (lines is None or data.count(b"\n") <= lines):
            start = max(0, size - block)
            data = os.pread(fd, size - start, start) + data
            size = start
        return "\n".join(_shown(data)[-(lines or 0) :])  # from 0 if all

    def log_lines(self) -> list[str]:
        """Return the last lines of the log, for an error."""
        return self.logs(ERROR_LOG_LINES).splitlines()

    def logs_since(self, position: int) -> tuple[str, int]:
        """Read the whole lines that the server wrote since the last call; returns them and the next position.

        `position` is 0, or the one that the last call returned. After the server's end an unfinished last
        line counts too. What the log has lost is left out.
        """
        ended = not self.usable  # before it is read
        fd = self._log.fileno()
        size = os.fstat(fd).st_size
        data = os.pread(fd, size - position, position) if size > position else b""
        if not ended:
            data = data[: data.rfind(b"\n") + 1]
        return "\n".join(_shown(data)), min(position, size) + len(data)


def _shown(data: bytes) -> list[str]:
    """Split output into lines; of an overwritten line, keep the last state."""
    text = data.decode(errors="replace").replace("\r\n", "\n").rstrip("\n")
    return [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]


if "_open_servers" not in globals():  # else it is a reload, which keeps it
    _open_servers: weakref.WeakValueDictionary[str, Server] = weakref.WeakValueDictionary()
"""The `Server` objects of this process, by the servers' folders."""


def open_server(directory: str) -> Server | None:
    """Return this process's object for the server of a folder, or None."""
    server = _open_servers.get(directory)
    return server if server is not None and server.is_owner else None


def end_server(record: ServerRecord) -> None:
    """Stop a server of any kernel, by this process's object for it if there is one."""
    if (server := open_server(record.directory)) is not None:
        server.stop()
    registry.end(record)
