"""A thread that cleans up after streams that were garbage-collected."""

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
"""Seconds that the end of the program waits for clean-up that is on its way."""


class BackgroundCloser:
    """Run clean-up actions one after the other in a thread of its own.

    An object may be collected in the middle of anything, also while its thread holds the lock of a
    connection pool: closing a connection there could wait for ever. Putting the action on a `SimpleQueue`
    is safe at any place. The thread starts with the first stream and ends with its owner; the end of the
    program waits until it has done what is queued, for a few seconds at most.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0
        self._queue: SimpleQueue[_Action | None] = SimpleQueue()
        self._thread: _Worker | None = None
        self._finalizer: weakref.finalize[..., BackgroundCloser] | None = None

    def start(self) -> None:
        """Have the thread run, also after a fork, which no thread survives."""
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
        """Have an action run soon; never waits."""
        self._queue.put(action)

    def close(self, timeout: float = 10.0) -> None:
        """Finish what is queued and end the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
            mine, self._pid = self._pid == os.getpid(), 0
        if thread is not None and mine:
            thread.end()
            thread.join(timeout)


class _Worker(threading.Thread):
    """Does what is queued, until it is told to end."""

    def __init__(self, queue: SimpleQueue[_Action | None]) -> None:
        super().__init__(name="nbruntime-closer", daemon=True)
        self._queue = queue

    def run(self) -> None:
        while (action := self._queue.get()) is not None:
            try:
                action()
            except Exception as error:  # noqa: BLE001 (the next one is to be cleaned up as well)
                _log.warning("clean-up of a stream failed: %s", error)

    def end(self) -> None:
        self._queue.put(None)


_workers: weakref.WeakSet[_Worker] = weakref.WeakSet()


@atexit.register
def _finish() -> None:
    """Do what is queued before the program ends: a stream may have been left in its last line."""
    until = time.monotonic() + EXIT_PATIENCE
    workers = list(_workers)
    for worker in workers:
        worker.end()
    for worker in workers:
        worker.join(max(0.0, until - time.monotonic()))
