"""A thread that cleans up after streams that were garbage-collected."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue

_log = logging.getLogger(__name__)

_Action = Callable[[], None]


class Cleaner:
    """Run clean-up actions one after the other in a thread of its own.

    An object may be collected in the middle of anything, also while its thread holds the lock of a
    connection pool: closing a connection there could wait for ever. Putting the action on a `SimpleQueue`
    is safe at any place. The thread starts with the first stream and ends with its owner.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0
        self._queue: SimpleQueue[_Action | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._finalizer: weakref.finalize[..., Cleaner] | None = None

    def start(self) -> None:
        """Have the thread run, also after a fork, which no thread survives."""
        if self._pid == os.getpid():
            return
        with self._lock:
            if self._pid == os.getpid():
                return
            self._queue = SimpleQueue()
            self._thread = threading.Thread(
                target=_work, args=(self._queue,), name="nbruntime-cleaner", daemon=True
            )
            self._thread.start()
            self._finalizer = weakref.finalize(self, _end, self._queue)
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
            self._queue.put(None)
            thread.join(timeout)


def _end(queue: SimpleQueue[_Action | None]) -> None:
    queue.put(None)


def _work(queue: SimpleQueue[_Action | None]) -> None:
    while (action := queue.get()) is not None:
        try:
            action()
        except Exception as error:  # noqa: BLE001 (the next one is to be cleaned up as well)
            _log.warning("clean-up of a stream failed: %s", error)
