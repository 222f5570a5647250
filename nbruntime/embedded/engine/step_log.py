"""The engine's memory of its last steps: which requests each computed, and when."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

from nbruntime.embedded.clock import now
from nbruntime.embedded.engine.scheduler import DecodeStep, ExtendStep, Scheduler
from nbruntime.protocol.step_log import Step, StepLog

MOST_STEPS = 20_000
"""Steps that are kept."""

MOST_BYTES = 16 * 2**20
"""Memory that they may take, by estimate: clients choose the length of their rids."""

ANSWER_STEPS = 5_000
"""Most steps of one answer."""

ANSWER_BYTES = 2**20
"""Length of an answer, by estimate, after which no step is added."""

_STEP_BYTES = 320
"""Memory of a step without its requests, and more than the length of its JSON."""

_RID_BYTES = 72
"""Memory of a rid besides its characters, and of its place in the two tuples of a step."""


class EngineStepLog:
    """The last steps of an engine, which fills it in its own thread; any thread may `read` it."""

    def __init__(self, most_steps: int = MOST_STEPS, most_bytes: int = MOST_BYTES) -> None:
        self._most_steps, self._most_bytes = most_steps, most_bytes
        self._lock = threading.Lock()
        self._steps: deque[Step] = deque()
        self._bytes = 0
        self._next = 0
        # The batch of the last step: the steps of an unchanged batch share their tuples.
        self._rids: tuple[str, ...] = ()
        self._ones: tuple[int, ...] = ()

    @contextmanager
    def step(self, step: ExtendStep | DecodeStep, scheduler: Scheduler) -> Iterator[None]:
        """Time a step and keep it, also if it fails."""
        waiting = len(scheduler.waiting)
        began = now()
        failed = True
        try:
            yield
            failed = False
        finally:
            self._add(step, began, now() - began, waiting, scheduler.cache.used, failed)

    def _add(
        self,
        step: ExtendStep | DecodeStep,
        began: float,
        took: float,
        waiting: int,
        used: int,
        failed: bool,
    ) -> None:
        retracted: tuple[str, ...] = ()
        if isinstance(step, ExtendStep):
            stage = "EXTEND"
            rids = tuple([part.request.rid for part in step.parts])
            counts = tuple([part.length for part in step.parts])
            tokens = sum(counts)
        else:
            stage = "DECODE"
            rids = tuple([request.rid for request in step.requests])
            tokens = len(rids)
            if len(self._ones) != tokens:
                self._ones = (1,) * tokens
            counts = self._ones
            if step.retracted:
                retracted = tuple([request.rid for request in step.retracted])
        if rids == self._rids:
            rids = self._rids
        self._rids = rids
        kept = Step(
            stage,
            began,
            took,
            len(rids),
            tokens,
            self._next,
            rids,
            counts,
            waiting,
            used,
            retracted,
            failed,
        )
        with self._lock:
            steps = self._steps
            if not (steps and steps[-1].rids is rids):
                self._bytes += _rid_bytes(rids)
            steps.append(kept)
            self._bytes += _STEP_BYTES + _rid_bytes(retracted)
            self._next += 1
            while len(steps) > self._most_steps or (self._bytes > self._most_bytes and len(steps) > 1):
                self._forget_oldest()

    def _forget_oldest(self) -> None:
        oldest = self._steps.popleft()
        self._bytes -= _STEP_BYTES + _rid_bytes(oldest.retracted)
        if not (self._steps and self._steps[0].rids is oldest.rids):
            self._bytes -= _rid_bytes(oldest.rids)

    def read(
        self, after: int | None = None, since: float | None = None, until: float | None = None
    ) -> StepLog:
        """Return the steps with a number above `after` that ran between two times, as many as fit."""
        with self._lock:
            steps, oldest = list(self._steps), self._next - len(self._steps)
        # Starts and ends both ascend: the engine runs one step after the other.
        first = 0 if after is None else min(max(after + 1 - oldest, 0), len(steps))
        if since is not None:
            first = max(first, bisect_left(steps, since, key=lambda step: step.end))
        stop = len(steps)
        if until is not None:
            stop = bisect_right(steps, until, key=lambda step: step.start)
        chosen: list[Step] = []
        size = 0
        for step in islice(steps, first, stop):
            size += _STEP_BYTES + _rid_bytes(step.rids) + _rid_bytes(step.retracted)
            if chosen and (size > ANSWER_BYTES or len(chosen) == ANSWER_STEPS):
                break
            chosen.append(step)
        return StepLog(now(), oldest, chosen, more=first + len(chosen) < stop)


def _rid_bytes(rids: tuple[str, ...]) -> int:
    # Four bytes hold any character, in memory and mostly in JSON.
    return _RID_BYTES * len(rids) + 4 * sum(map(len, rids))
