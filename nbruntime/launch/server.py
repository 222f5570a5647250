"""A server process as its user sees it, whoever has started it."""

from __future__ import annotations

import os
import threading
import weakref
from abc import ABC, abstractmethod
from pathlib import Path

from nbruntime.launch.phases import Phase, Phases
from nbruntime.launch.supervisor import system
from nbruntime.launch.supervisor.record import LOG, ServerRecord

__all__ = ["ExitNotifier", "Server", "known"]

_TAIL_BLOCK = 1 << 16


class ExitNotifier:
    """The end of a server, as the thread that waits for it and the `Server` know it.

    The thread must not know the `Server` itself, which would never be collected then.
    """

    def __init__(self) -> None:
        self.gone = threading.Event()
        """Set when nothing is left of the server."""
        self.asked = False
        """Whether somebody has asked for it."""
        self._lock = threading.Lock()
        # Weakly: a server may be handed to many cells, and nobody needs what the earlier ones saw.
        self._hearers: weakref.WeakSet[Phases] = weakref.WeakSet()

    def tell(self, phases: Phases) -> None:
        """Have `phases` enter the end, as soon as it is there, while somebody needs them."""
        with self._lock:
            self._hearers.add(phases)
        if self.gone.is_set():
            phases.enter(self.phase)

    def reach(self) -> None:
        """Note that nothing is left."""
        self.gone.set()
        with self._lock:
            hearers = list(self._hearers)
        for phases in hearers:
            phases.enter(self.phase)

    @property
    def phase(self) -> Phase:
        """What it is called."""
        return Phase("stopped" if self.asked else "died")


class Server(ABC):
    """A server under its supervisor: how it is doing, what it has written, and its end.

    Parameters
    ----------
    record : ServerRecord
        What its folder says.
    end : ExitNotifier
        Its end, which a thread waits for.

    Raises
    ------
    OSError
        If its log is not there any more.
    """

    def __init__(self, record: ServerRecord, end: ExitNotifier) -> None:
        self.record = record
        self._owner = os.getpid()
        self._end = end
        # Stays readable when the file has been removed with the server.
        self._log = Path(record.directory, LOG).open("rb", buffering=0)  # noqa: SIM115

    def _become_known(self) -> None:
        """Have `known` give this object: the last step of its constructor, since other threads may ask."""
        here[self.record.directory] = self

    @property
    @abstractmethod
    def pid(self) -> int:
        """Process id of the server."""

    @property
    @abstractmethod
    def supervisor_pid(self) -> int:
        """Process id of the supervisor, which is the server's parent."""

    @property
    @abstractmethod
    def running(self) -> bool:
        """Whether the server itself has not ended."""

    @abstractmethod
    def exit_cause(self) -> str:
        """How the server ended, in words.

        Returns
        -------
        str
            Empty while it runs.
        """

    @abstractmethod
    def stop(self) -> None:
        """End the server with all that it has started, and wait until nothing is left.

        Called again, or in a fork of the process that made this object, it does nothing.
        """

    @property
    def is_owner(self) -> bool:
        """Whether this process has made this object; false in a fork."""
        return self._owner == os.getpid()

    @property
    def stopped(self) -> bool:
        """Whether somebody has asked for its end."""
        return self._end.asked

    @property
    def usable(self) -> bool:
        """Whether it runs, and nobody has asked for its end."""
        return self.running and not self.stopped

    @property
    def gone(self) -> bool:
        """Whether nothing is left of the server."""
        return self._end.gone.is_set()

    def wait_until_gone(self, timeout: float | None = None) -> bool:
        """Wait until nothing is left of the server.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most.

        Returns
        -------
        bool
            `gone`.
        """
        return self._end.gone.wait(timeout)

    def report_to(self, phases: Phases) -> None:
        """Have the end of the server noted.

        Parameters
        ----------
        phases : Phases
            Enters ``stopped`` or ``died`` then, if it is still needed by somebody else.
        """
        self._end.tell(phases)

    def owns(self, pid: int) -> bool:
        """Whether a process belongs to the server's tree.

        Parameters
        ----------
        pid : int
            Any process of this machine.

        Returns
        -------
        bool
        """
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
            The last lines only. A progress bar counts as the last state that it had.

        Returns
        -------
        str
            Without the end of the last line.
        """
        if lines is not None and lines <= 0:
            return ""
        fd = self._log.fileno()
        size = os.fstat(fd).st_size
        block = size if lines is None else _TAIL_BLOCK
        data = b""
        while size > 0 and (lines is None or data.count(b"\n") <= lines):
            start = max(0, size - block)
            data = system.read_at(fd, size - start, start) + data
            size = start
        shown = _shown(data)
        return "\n".join(shown[-lines:] if lines is not None else shown)

    def logs_since(self, position: int) -> tuple[str, int]:
        """Read the lines that the server has written since the last call.

        Parameters
        ----------
        position : int
            0, or what the last call gave.

        Returns
        -------
        str
            Whole lines, but for the last one of a server that has ended. If the log was shortened meanwhile,
            what had been written until then is left out.
        int
            Where the next call goes on.
        """
        ended = not self.usable  # before it is read
        fd = self._log.fileno()
        size = os.fstat(fd).st_size
        data = system.read_at(fd, size - position, position) if size > position else b""
        if not ended:
            data = data[: data.rfind(b"\n") + 1]
        return "\n".join(_shown(data)), min(position, size) + len(data)


def _shown(data: bytes) -> list[str]:
    """Split output into lines; of one that was written over and over, the last state."""
    text = data.decode(errors="replace").replace("\r\n", "\n").rstrip("\n")
    return [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]


def known(directory: str) -> Server | None:
    """Give the object that this process has for a server; None if it has none, or its parent forked."""
    server = here.get(directory)
    return server if server is not None and server.is_owner else None


here: weakref.WeakValueDictionary[str, Server] = weakref.WeakValueDictionary()
"""The servers that this process has an object for, by their folders."""
