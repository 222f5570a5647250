"""A thread that closes streams which were garbage-collected."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from queue import SimpleQueue

_log = logging.getLogger(__name__)

_Action = Callable[[], None]

EXIT_PATIENCE = 7.0
"""Seconds that the end of the program waits for unfinished actions."""


class BackgroundCloser:
    """Runs clean-up actions in its own thread, one after the other; the thread ends with its owner.

    A finalizer may run while its thread holds the lock of a connection pool, where closing a connection
    could wait for ever; putting an action on a `SimpleQueue` is always safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0
        self._queue: SimpleQueue[_Action | None] = SimpleQueue()
        self._thread: _Worker | None = None
        self._finalizer: weakref.finalize[..., BackgroundCloser] | None = None

    def start(self) -> None:
        """Start the thread unless it runs in this process; a fork ends it."""
        if self._pid == os.getpid():
            return
        with self._lock:
            if self._pid == os.getpid():
                return
            self._queue = SimpleQueue()
            self._thread = _Worker(self._queue)
            self._thread.start()
            _workers.add(self._thread)
            self._finalizer = weakref.finalize(self, self._thread.end)
            self._finalizer.atexit = False
            self._pid = os.getpid()

    def __call__(self, action: _Action) -> None:
        """Queue an action, without waiting."""
        self._queue.put(action)

    def close(self, timeout: float = 10.0) -> None:
        """Run the queued actions and end the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
            mine, self._pid = self._pid == os.getpid(), 0
        if thread is not None and mine:
            thread.end()
            thread.join(timeout)


class _Worker(threading.Thread):
    def __init__(self, queue: SimpleQueue[_Action | None]) -> None:
        super().__init__(name="nbruntime-closer", daemon=True)
        self._queue = queue

    def run(self) -> None:
        while (action := self._queue.get()) is not None:
            try:
                action()
            except Exception as error:  # noqa: BLE001 (the next action must run, too)
                _log.warning("clean-up of a stream failed: %s", error)

    def end(self) -> None:
        self._queue.put(None)


if "_workers" not in globals():  # else it is a reload, which keeps it
    _workers: weakref.WeakSet[_Worker] = weakref.WeakSet()
    atexit.register(lambda: _finish())


def _finish() -> None:
    """Run the queued actions before the program ends."""
    until = time.monotonic() + EXIT_PATIENCE
    workers = list(_workers)
    for worker in workers:
        worker.end()
    for worker in workers:
        worker.join(max(0.0, until - time.monotonic()))
