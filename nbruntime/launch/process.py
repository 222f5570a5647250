"""The owner's side of a server process: start it under a supervisor, watch it, stop it.

`ServerProcess` is what the rest uses. Behind it stands a `_Handle`, which knows nothing of its
`ServerProcess`: the thread that follows the supervisor and the finalizer hold the handle only, so a
`ServerProcess` that nobody needs any more is collected, and its server ends.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nbruntime.errors import LaunchError
from nbruntime.launch import supervisor

__all__ = ["ServerCommand", "ServerProcess"]

QUICK = 1.5
"""Seconds that a finalizer or the interpreter's exit waits for the servers; the supervisors go on without."""

LINES_KEPT = 1000
"""Watched lines that wait to be read; nobody reads them once the server is ready."""

_TAIL_BLOCK = 1 << 16


@dataclass(frozen=True)
class ServerCommand:
    """How a server is executed.

    Parameters
    ----------
    argv : tuple of str
        The command; anybody on the machine can read it, so no secret stands in it.
    env : dict of str to str or None
        Additions to the environment; None takes a variable away.
    sockets : tuple of socket.socket
        Listening sockets that the server takes over.
    watch : str or None
        Regular expression of the lines of output that say how far the server is.
    secrets : tuple of str
        Texts that are masked in the log.
    """

    argv: tuple[str, ...]
    env: dict[str, str | None] = field(default_factory=dict, repr=False)
    sockets: tuple[socket.socket, ...] = ()
    watch: str | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)


class _Handle:
    """What is known of one supervisor and its server; shared with the thread that follows it."""

    def __init__(self, process: subprocess.Popen[bytes], directory: str, grace: float) -> None:
        self.process = process
        self.directory = directory
        self.grace = grace
        self.owner = os.getpid()
        self.server_pid: int | None = None
        self.exit_code: int | None = None
        self.failure: str | None = None
        self.stopping = False
        self.gone = threading.Event()
        self.lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        """Watched lines; a None wakes the reader when the server's state has changed."""

    def follow(self) -> None:
        """Take in the supervisor's events until it ends, and collect it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            match event["event"]:
                case "started":
                    self.server_pid = event["pid"]
                case "failed":
                    self.failure = event["error"]
                case "exited":
                    self.exit_code = event["code"]
                case "line" if self.lines.qsize() < LINES_KEPT:
                    self.lines.put(event["text"])
            if event["event"] != "line":
                self.lines.put(None)
        self.process.wait()
        if self.process.returncode != 0:  # killed, or broken: what it stood for is ours to do
            self.clear_up()
        self.gone.set()
        self.lines.put(None)

    def clear_up(self) -> None:
        """Do what a killed supervisor can do no more."""
        deadline = time.monotonic() + QUICK
        while supervisor.kill_marked(self.directory) and time.monotonic() < deadline:
            time.sleep(supervisor.TREE_POLL)
        shutil.rmtree(self.directory, ignore_errors=True)

    def ask_to_stop(self) -> None:
        """Tell the supervisor to end the server; returns at once."""
        self.stopping = True
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # the supervisor has ended already
            self.process.stdin.write(b"stop\n")
            self.process.stdin.close()


_running: set[_Handle] = set()
"""Every server of this process that is not known to be gone."""


def _follow(handle: _Handle) -> None:
    try:
        handle.follow()
    finally:
        _running.discard(handle)


def _stop_quickly(handle: _Handle) -> None:
    """Finalize a `ServerProcess`: module level, and it waits `QUICK` at most."""
    if handle.owner != os.getpid() or handle.gone.is_set():
        return
    handle.ask_to_stop()
    with contextlib.suppress(subprocess.TimeoutExpired):
        # Not the event: this may run inside of the very thread that would set it.
        handle.process.wait(QUICK)


def _stop_all() -> None:
    """At exit: ask all first, then wait for all."""
    handles = [handle for handle in list(_running) if handle.owner == os.getpid()]
    for handle in handles:
        handle.ask_to_stop()
    deadline = time.monotonic() + QUICK
    for handle in handles:
        with contextlib.suppress(subprocess.TimeoutExpired):
            handle.process.wait(max(0.0, deadline - time.monotonic()))


atexit.register(_stop_all)


class ServerProcess:
    """A server that runs under a supervisor, and ends with this object or with this process.

    Parameters
    ----------
    command : ServerCommand
        What to execute.
    grace : float
        Seconds between SIGTERM and SIGKILL when the server is stopped.
    hold : sequence of socket.socket
        Sockets that the supervisor keeps open while the server lives.

    Raises
    ------
    LaunchError
        If the command cannot be executed.

    Examples
    --------
    >>> import sys
    >>> process = ServerProcess(ServerCommand((sys.executable, "-c", "print('hello')")))
    >>> process.wait(10)
    0
    >>> process.logs()
    'hello'
    """

    def __init__(
        self, command: ServerCommand, *, grace: float = 0.5, hold: Sequence[socket.socket] = ()
    ) -> None:
        # Its own folder, readable by this user only, with the log in it; the supervisor removes it.
        directory = tempfile.mkdtemp(prefix="nbruntime-")
        log = Path(directory, "server.log")
        log.touch(0o600)
        # Stays readable when the file has been removed with the server.
        self._log = log.open("rb", buffering=0)
        order = supervisor.Order(
            owner=os.getpid(),
            argv=list(command.argv),
            directory=directory,
            log=str(log),
            cwd=os.getcwd(),
            env=dict(command.env),
            secrets=list(command.secrets),
            pass_fds=[server_socket.fileno() for server_socket in command.sockets],
            watch=command.watch,
            grace=grace,
        )
        try:
            with log.open("ab") as errors:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", supervisor.__file__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    start_new_session=True,
                    pass_fds=[held.fileno() for held in (*command.sockets, *hold)],
                )
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        self._handle = _Handle(process, directory, grace)
        self._finalizer = weakref.finalize(self, _stop_quickly, self._handle)
        self._finalizer.atexit = False  # there, `_stop_all` asks all before it waits for any
        _running.add(self._handle)
        threading.Thread(target=_follow, args=(self._handle,), name="nbruntime-server", daemon=True).start()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the follower says why it ended
            process.stdin.write(order.to_line())
            process.stdin.flush()
        try:
            self._await_start()
        except BaseException:  # an interrupt, too
            self.stop()
            raise

    def _await_start(self) -> None:
        handle = self._handle
        while handle.server_pid is None and handle.failure is None and not handle.gone.is_set():
            handle.lines.get()
        if handle.server_pid is None:
            raise LaunchError(
                "The server cannot be executed",
                cause=handle.failure or "its supervisor ended",
                log_lines=self.logs().splitlines(),
            )

    @property
    def pid(self) -> int:
        """Process id of the server."""
        assert self._handle.server_pid is not None
        return self._handle.server_pid

    @property
    def supervisor_pid(self) -> int:
        """Process id of the supervisor, which is the server's parent."""
        return self._handle.process.pid

    @property
    def is_owner(self) -> bool:
        """Whether this process has started the server; false in a fork."""
        return self._handle.owner == os.getpid()

    def poll(self) -> int | None:
        """Say how the server ended.

        Returns
        -------
        int or None
            None while it runs; its exit code, or the negative number of the signal that killed it.
        """
        handle = self._handle
        if handle.exit_code is None and handle.gone.is_set():
            return -signal.SIGKILL  # it went with its supervisor, which could not tell
        return handle.exit_code

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until the server and all that it started are gone.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most.

        Returns
        -------
        int or None
            As `poll`.
        """
        self._handle.gone.wait(timeout)
        return self.poll()

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
        table = supervisor.process_table()
        while pid in table:
            pid = table[pid].parent
            if pid == self.supervisor_pid:
                return True
        return False

    def next_line(self, timeout: float) -> str | None:
        """Wait for the next watched line of the server's output.

        Parameters
        ----------
        timeout : float
            Seconds to wait at most.

        Returns
        -------
        str or None
            None when there was none in time, or when the server's state has changed.
        """
        try:
            return self._handle.lines.get(timeout=timeout)
        except queue.Empty:
            return None

    @property
    def stopped(self) -> bool:
        """Whether somebody has asked for its end."""
        return self._handle.stopping

    @property
    def gone(self) -> bool:
        """Whether nothing is left of the server."""
        return self._handle.gone.is_set()

    def exit_cause(self) -> str:
        """How the server ended, in words.

        Returns
        -------
        str
            Empty while it runs.
        """
        code = self.poll()
        if code is None:
            return ""
        if code >= 0:
            return f"it exited with code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        if code == -signal.SIGKILL and not self.stopped:
            return f"it was killed by {name}, as when the machine runs out of memory"
        return f"it was killed by {name}"

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
        fd = self._log.fileno()
        size = os.fstat(fd).st_size
        if lines is not None and lines <= 0:
            return ""
        data = b""
        # pread: the position in the file is shared with a fork.
        while size > 0 and (lines is None or data.count(b"\n") <= lines):
            start = max(0, size - _TAIL_BLOCK)
            data = os.pread(fd, size - start, start) + data
            size = start
        text = data.decode(errors="replace").replace("\r\n", "\n").rstrip("\n")
        shown = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
        return "\n".join(shown[-lines:] if lines is not None else shown)

    def stop(self) -> None:
        """End the server with all that it has started, and wait until nothing is left.

        Called again, or in a fork of the process that started the server, it does nothing.
        """
        handle = self._handle
        if not self.is_owner or handle.gone.is_set():
            return
        handle.ask_to_stop()
        # The supervisor needs its grace and a moment to kill; a supervisor that is stuck is killed itself.
        if not handle.gone.wait(handle.grace + 5):
            handle.process.kill()
            handle.gone.wait(QUICK)
        self._finalizer.detach()
