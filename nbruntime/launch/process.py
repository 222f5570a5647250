"""The owner's side of a server process: start it under a supervisor, watch it, stop it.

The thread that follows the supervisor and the finalizer hold a `_Handle` only, never the `ServerProcess`, so
that an unused `ServerProcess` is collected and its server ends.
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
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nbruntime.errors import LaunchError
from nbruntime.launch import registry
from nbruntime.launch.server import ExitNotifier, Server
from nbruntime.launch.supervisor import __file__ as SUPERVISOR
from nbruntime.launch.supervisor.launch_spec import LaunchSpec
from nbruntime.launch.supervisor.record import LOG, ServerRecord
from nbruntime.secrets import MIN_SCRUBBED_LENGTH

__all__ = ["ServerProcess"]

PROGRAM = str(Path(SUPERVISOR).with_name("__main__.py"))

QUICK = 1.5
"""Seconds that a finalizer or the interpreter's exit waits for servers; the supervisors end them anyway."""

LINES_KEPT = 1000
"""Watched lines that are kept for `next_line`; none are read once the server is ready."""


class _Handle:
    """State of one supervisor and its server; shared with the thread that follows it."""

    def __init__(
        self, process: subprocess.Popen[bytes], record: ServerRecord, grace: float, end: ExitNotifier
    ) -> None:
        self.process = process
        self.record = record
        self.grace = grace
        self.end = end
        self.owner = os.getpid()
        self.server_pid: int | None = None
        self.exit_code: int | None = None
        self.failure: str | None = None
        self.recorded = threading.Event()  # set when the record says that the server is ready, or at its end
        # Watched lines; a None wakes the reader when the server's state has changed.
        self.lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def follow(self) -> None:
        """Handle the supervisor's events until it ends."""
        assert self.process.stdout is not None
        with self.process.stdout as events:
            for line in events:
                with contextlib.suppress(ValueError):  # only half a line: its supervisor was killed
                    self._take_in(json.loads(line))
        self.process.wait()
        if self.process.returncode != 0:  # killed, or broken: this process does its work
            registry.clear(self.record)

    def _take_in(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "started":
                self.server_pid = event["pid"]
            case "failed":
                self.failure = event["text"]
            case "ready":
                self.recorded.set()
            case "stopping":
                self.end.asked = True
            case "exited":
                self.exit_code = event["code"]
            case "line" if self.lines.qsize() < LINES_KEPT:
                self.lines.put(event["text"])
        if event["event"] != "line":
            self.lines.put(None)

    def ask_to_stop(self) -> None:
        """Tell the supervisor to stop the server, without waiting."""
        assert self.process.stdin is not None
        self.end.asked = True
        self.say(b"stop\n")
        with contextlib.suppress(OSError, ValueError):
            self.process.stdin.close()

    def say(self, words: bytes) -> None:
        """Write to the supervisor; ignored if it has ended."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self.process.stdin.write(words)
            self.process.stdin.flush()


if "_running" not in globals():  # else it is a reload, which keeps it
    _running: set[_Handle] = set()
    atexit.register(lambda: _stop_all())
"""Servers of this process that may still run."""


def _follow(handle: _Handle) -> None:
    try:
        handle.follow()
    finally:
        _running.discard(handle)
        handle.end.gone.set()
        handle.recorded.set()
        handle.lines.put(None)  # its reader looks whether the server is gone
        handle.end.notify()


def _stop_quickly(handle: _Handle) -> None:
    """Finalize a `ServerProcess`; waits at most `QUICK` seconds."""
    if handle.owner != os.getpid() or handle not in _running:
        return
    handle.ask_to_stop()
    with contextlib.suppress(subprocess.TimeoutExpired):
        # Not the event: this may run inside of the very thread that would set it.
        handle.process.wait(QUICK)


def _stop_all() -> None:
    """Stop all servers at exit except those that are kept alive."""
    own = [handle for handle in list(_running) if handle.owner == os.getpid()]
    handles = [handle for handle in own if not handle.record.keep_alive]
    for handle in handles:
        handle.ask_to_stop()
    deadline = time.monotonic() + QUICK
    for handle in handles:
        with contextlib.suppress(subprocess.TimeoutExpired):
            handle.process.wait(max(0.0, deadline - time.monotonic()))


def _maskable(secrets: Sequence[str]) -> list[str]:
    """Leave out short secrets, which are parts of words; the longest first: it may begin with another."""
    return sorted((one for one in secrets if len(one) >= MIN_SCRUBBED_LENGTH), key=len, reverse=True)


class ServerProcess(Server):
    """A server that runs under a supervisor, and ends with this object or with this process.

    Parameters
    ----------
    spec : LaunchSpec
        What to execute.
    record : ServerRecord, optional
        From `registry.claim`; with ``keep_alive`` the server ends only when it is stopped.
    hold : sequence of socket.socket
        Sockets that the supervisor keeps open while the server lives.

    Raises
    ------
    LaunchError
        If the command cannot be executed.
    """

    def __init__(
        self,
        spec: LaunchSpec,
        *,
        record: ServerRecord | None = None,
        hold: Sequence[socket.socket] = (),
    ) -> None:
        record = record or registry.claim()
        # The folder is this server's alone, and holds its log; the supervisor removes it.
        log = Path(record.directory, LOG)
        try:
            super().__init__(record, ExitNotifier())
            spec = replace(
                spec,
                owner=None if record.keep_alive else os.getpid(),
                directory=record.directory,
                log=str(log),
                record=asdict(record),
                cwd=os.getcwd(),
                secrets=_maskable(spec.secrets),
            )
            with log.open("ab") as errors:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", PROGRAM],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    pass_fds=[*spec.pass_fds, *(held.fileno() for held in hold)],
                    start_new_session=True,
                )
        except BaseException:
            shutil.rmtree(record.directory, ignore_errors=True)
            raise
        self.supervisor_pid = process.pid
        handle = self._handle = _Handle(process, record, spec.grace, self._end)
        _running.add(handle)
        self._finalizer = weakref.finalize(self, _stop_quickly, handle)
        self._finalizer.atexit = False  # there, `_stop_all` asks all before it waits for any
        threading.Thread(target=_follow, args=(handle,), name="nbruntime-server", daemon=True).start()
        handle.say(spec.to_line())
        try:
            self.pid = self._await_start()
        except BaseException:  # an interrupt, too
            self.stop()
            raise
        if record.keep_alive:
            self._finalizer.detach()
        self._register()

    def _await_start(self) -> int:
        """Return the server's pid."""
        handle = self._handle
        while handle.server_pid is None and handle.failure is None and not self.gone:
            handle.lines.get()
        if handle.server_pid is None:
            raise LaunchError(
                "The server cannot be executed",
                cause=handle.failure or "its supervisor ended",
                log_lines=self.logs().splitlines(),
            )
        return handle.server_pid

    @property
    def running(self) -> bool:
        """True until the server itself ends."""
        return self.poll() is None

    def poll(self) -> int | None:
        """Return the exit code, or the negative number of the signal that killed it; None while it runs."""
        handle = self._handle
        if handle.exit_code is None and self.gone:
            return -signal.SIGKILL  # it went with its supervisor, which could not tell
        return handle.exit_code

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until the server's whole process tree is gone, at most `timeout` seconds; returns `poll()`."""
        self.wait_until_gone(timeout)
        return self.poll()

    def exit_cause(self) -> str:
        """Return how the server ended; empty while it runs."""
        code = self.poll()
        if code is None:
            return ""
        if code >= 0:
            return f"it exited with code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        memory = code == -signal.SIGKILL and not self.stopped
        return f"it was killed by {name}" + (", as when the machine runs out of memory" if memory else "")

    def next_line(self, timeout: float) -> str | None:
        """Wait up to `timeout` seconds for a watched line; None if there is none or the state changed."""
        try:
            return self._handle.lines.get(timeout=timeout)
        except queue.Empty:
            return None

    def tell_ready(self, model: str) -> None:
        """Mark the server as ready in its record, with its name of the model; return when it is."""
        self._handle.say(f"ready {' '.join(model.split())}\n".encode(errors="replace"))
        self._handle.recorded.wait(QUICK)  # a supervisor that is stuck does not keep the caller

    def stop(self) -> None:
        """Stop the server; see `Server.stop`."""
        handle = self._handle
        if not self.is_owner or self.gone:
            return
        handle.ask_to_stop()
        # The supervisor needs its grace and a moment to kill; a supervisor that is stuck is killed itself.
        if not self.wait_until_gone(handle.grace + 5):
            handle.process.kill()
            self.wait_until_gone(QUICK)
        self._finalizer.detach()
