"""Closes streams which were garbage-collected, in a thread."""

from __future__ import annotations

import _thread
import atexit
import contextlib
import logging
import math
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable

_log = logging.getLogger(__name__)

_Action = Callable[[], None]

EXIT_PATIENCE = 7.0
"""Seconds that the end of the program waits for unfinished actions."""


class BackgroundCloser:
    """Runs clean-up actions one after the other, in a thread that lives as long as there are some.

    A finalizer may run while its thread holds the lock of a connection pool, where closing a connection
    could wait for ever. So nothing that `__call__` does waits for a lock.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0
        self._actions: queue.SimpleQueue[_Action] = queue.SimpleQueue()
        self._busy = threading.Lock()  # held by the thread that runs the actions

    def start(self) -> None:
        """Serve this process; a fork forgets the actions of its parent."""
        if self._pid == os.getpid():
            return
        with self._lock:
            if self._pid != os.getpid():
                self._actions, self._busy = queue.SimpleQueue(), threading.Lock()
                self._pid = os.getpid()
                _closers.add(self)

    def __call__(self, action: _Action) -> None:
        """Queue an action, without waiting."""
        self._actions.put(action)
        if self._pid == os.getpid() and self._busy.acquire(blocking=False):
            try:
                _thread.start_new_thread(self._start_thread, ())  # Thread.start() would wait for a lock
            except RuntimeError:  # the program ends, and runs the rest itself
                self._busy.release()

    def close(self, timeout: float = 10.0) -> None:
        """Wait for the end of the queued actions."""
        if self._pid == os.getpid() and self._busy.acquire(timeout=timeout):
            self._busy.release()

    def finish(self, until: float) -> None:
        """Run the queued actions in the calling thread, unless the clock says `until` before."""
        if self._pid == os.getpid() and self._busy.acquire(timeout=max(0.0, until - time.monotonic())):
            self._run_queued(until)
            self._busy.release()

    def _start_thread(self) -> None:
        try:
            threading.Thread(target=self._run, name="nbruntime-closer", daemon=True).start()
        except RuntimeError:
            self._busy.release()

    def _run(self) -> None:
        while True:
            self._run_queued()
            self._busy.release()
            # An action that came before the release has found the thread busy.
            if self._actions.empty() or not self._busy.acquire(blocking=False):
                return

    def _run_queued(self, until: float = math.inf) -> None:
        with contextlib.suppress(queue.Empty):
            while time.monotonic() < until:
                action = self._actions.get_nowait()
                try:
                    action()
                except Exception as error:  # noqa: BLE001 (the next action must run, too)
                    _log.warning("clean-up of a stream failed: %s", error)


if "_closers" not in globals():  # else it is a reload, which keeps them
    _closers: weakref.WeakSet[BackgroundCloser] = weakref.WeakSet()
    atexit.register(lambda: _finish())


def _finish() -> None:
    """Run the queued actions before the program ends."""
    until = time.monotonic() + EXIT_PATIENCE
    for closer in list(_closers):
        closer.finish(until)
