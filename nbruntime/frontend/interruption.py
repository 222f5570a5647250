"""What an interrupt does to programs: their calls of the model are aborted, so a batch comes back at once.

SGLang's ``run_batch`` waits in the main thread for all of its programs, also after an interrupt, and their
calls run in threads that hear of none. So while a cell runs (`nbruntime.notebook.extension`) the calls in
flight are watched as a stream is, by `nbruntime.generation.interrupts`.
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

AGAIN_SECONDS = 0.2
"""How often an abort is sent: a request may have been on its way to the server."""

_log = logging.getLogger(__name__)


class _Aborts(Protocol):
    def abort(self, rid: str | Sequence[str]) -> None: ...


class InFlightRequests:
    """The calls of programs that are in flight; an interrupt aborts them."""

    def __init__(self) -> None:
        self._running: dict[str, _Aborts] = {}
        self._left: FrameType | None = None

    @contextlib.contextmanager
    def one(self, endpoint: _Aborts) -> Iterator[str]:
        """Count a call as running, and give the name for its request.

        Raises
        ------
        GenerationAbortedError
            If it belongs to what the main thread is leaving after an interrupt.
        """
        rid = uuid.uuid4().hex
        self._running[rid] = endpoint
        try:
            self._refuse_what_is_left()
            yield rid
        finally:
            del self._running[rid]

    def interrupted(self) -> None:
        """Abort what is running without waiting; called in the main thread, in the middle of anything."""
        ours = [frame for frame in _outwards(sys._getframe()) if _is_of_sglang(frame)]
        self._left = ours[-1] if ours else None
        of_each: dict[_Aborts, list[str]] = defaultdict(list)
        for rid, endpoint in list(self._running.items()):
            of_each[endpoint].append(rid)
        for endpoint, rids in of_each.items():
            # A Thread takes locks at its start, one of which the main thread may hold.
            _thread.start_new_thread(self._abort, (endpoint, rids))

    def _abort(self, endpoint: _Aborts, rids: list[str]) -> None:
        try:
            while running := [rid for rid in rids if rid in self._running]:
                endpoint.abort(running)
                time.sleep(AGAIN_SECONDS)
        except NbruntimeError as error:  # a router has no aborts
            _log.debug("abort of %s: %s", rids, error)

    def _refuse_what_is_left(self) -> None:
        left = self._left
        if left is None:
            return
        if left in _outwards(sys._current_frames().get(threading.main_thread().ident or 0)):
            raise GenerationAbortedError("The program was interrupted", hint="Run it again.")
        self._left = None


calls = InFlightRequests()


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_of_sglang(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("sglang.lang.")
