"""An interrupt aborts the requests of running programs, so that a batch returns at once.

SGLang's ``run_batch`` waits in the main thread for all of its programs, even after an interrupt, and their
requests run in other threads. While a cell runs (`nbruntime.notebook.extension`), these requests are
watched like a stream, by `nbruntime.generation.interrupts`.
"""

from __future__ import annotations

import _thread
import contextlib
import logging
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Protocol

from nbruntime.errors import GenerationAbortedError, NbruntimeError

ABORT_INTERVAL = 0.2
"""Seconds between aborts: a request may still have been on its way to the server."""

_log = logging.getLogger(__name__)


class _Aborts(Protocol):
    def abort(self, rid: str | Sequence[str]) -> None: ...


class InFlightRequests:
    """The running requests of programs; an interrupt aborts them."""

    def __init__(self) -> None:
        self._running: dict[str, _Aborts] = {}
        self._interrupted: FrameType | None = None

    @contextlib.contextmanager
    def track(self, endpoint: _Aborts) -> Iterator[str]:
        """Register a request while it runs, and give its id; refuse it if its program was interrupted."""
        rid = uuid.uuid4().hex
        self._running[rid] = endpoint
        try:
            self._refuse_interrupted()
            yield rid
        finally:
            del self._running[rid]

    def interrupted(self) -> None:
        """Abort the running requests without waiting; called in a signal handler."""
        ours = [frame for frame in _callers(sys._getframe()) if _in_sglang(frame)]
        self._interrupted = ours[-1] if ours else None
        by_endpoint: dict[_Aborts, list[str]] = defaultdict(list)
        for rid, endpoint in list(self._running.items()):
            by_endpoint[endpoint].append(rid)
        for endpoint, rids in by_endpoint.items():
            # Starting a Thread takes locks, which the main thread may hold.
            _thread.start_new_thread(self._abort, (endpoint, rids))

    def _abort(self, endpoint: _Aborts, rids: list[str]) -> None:
        try:
            while running := [rid for rid in rids if rid in self._running]:
                endpoint.abort(running)
                time.sleep(ABORT_INTERVAL)
        except NbruntimeError as error:  # a router cannot abort
            _log.debug("abort of %s: %s", rids, error)

    def _refuse_interrupted(self) -> None:
        outermost = self._interrupted
        if outermost is None:
            return
        if outermost in _callers(sys._current_frames().get(threading.main_thread().ident or 0)):
            raise GenerationAbortedError("The program was interrupted", hint="Run it again.")
        self._interrupted = None


in_flight = InFlightRequests()


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _in_sglang(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("sglang.lang.")
