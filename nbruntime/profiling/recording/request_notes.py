"""Notes the requests of a client, while and after they run."""

from __future__ import annotations

import threading
import time
from bisect import insort
from collections import deque
from collections.abc import Mapping
from typing import Any

from nbruntime.endpoint.observers import ObservedRequest
from nbruntime.generation.outcome import Outcome
from nbruntime.generation.record import SERVER_TIMES
from nbruntime.profiling.records import RequestRecord
from nbruntime.protocol.answers import number_in


class RequestNotes:
    """Makes records of the requests that it observes; see `nbruntime.endpoint.observers.Observer`.

    Parameters
    ----------
    records : list of RequestRecord
        Filled as requests end, in the order of sending.
    most : int
        Number of records kept.
    """

    def __init__(self, records: list[RequestRecord], most: int) -> None:
        self.left_out = 0
        self._records = records
        self._most = most
        self._epoch = time.time() - time.perf_counter()
        self._running: dict[int, ObservedRequest] = {}
        self._ended: deque[ObservedRequest] = deque()
        self._lock = threading.Lock()  # only the thread that has it makes records
        self._closed = False

    def note_sent(self, request: ObservedRequest) -> None:
        """Note that a request is being sent."""
        if not self._closed:
            self._running[id(request)] = request

    def note_ended(self, request: ObservedRequest) -> None:
        """Note that a request has ended; waits for no lock, as the garbage collector may call it."""
        if self._running.pop(id(request), None) is not None:
            self._ended.append(request)
            self._record_ended()

    def _record_ended(self) -> None:
        # A thread that does not get the lock leaves its request to the one that has it.
        while self._ended and self._lock.acquire(blocking=False):
            try:
                while self._ended:
                    self._record(self._ended.popleft())
            finally:
                self._lock.release()

    def _record(self, request: ObservedRequest) -> None:
        now = time.perf_counter()
        for outcome in request.outcomes():
            if len(self._records) >= self._most:
                self.left_out += 1
                continue
            record = _record_of(outcome, request.route, self._epoch, now)
            if not self._records or self._records[-1].sent <= record.sent:
                self._records.append(record)
            else:
                insort(self._records, record, key=lambda each: (each.sent, each.index))

    def close(self) -> None:
        """Record the requests that still run, and note nothing more."""
        self._closed = True
        with self._lock:
            running = list(self._running.values())
            self._running.clear()
            for request in running:
                self._record(request)
        self._record_ended()


def _record_of(outcome: Outcome, route: str, epoch: float, now: float) -> RequestRecord:
    meta_info = outcome.meta_info
    reason = meta_info.get("finish_reason")
    sent = epoch + outcome.started
    ended = epoch + (now if outcome.ended is None else outcome.ended)
    arrivals = outcome.arrivals
    times = {name: number_in(meta_info, name) for name in SERVER_TIMES}
    if arrivals and arrivals[-1][0] > ended - sent:  # Unix times are rounded to a quarter of a microsecond
        arrivals = (*arrivals[:-1], (ended - sent, arrivals[-1][1]))
    return RequestRecord(
        rid=outcome.rid,
        sent=sent,
        ended=ended,
        arrivals=arrivals,
        status=outcome.status,
        route=route,
        index=outcome.index,
        prompt_tokens=_count(meta_info, "prompt_tokens"),
        cached_tokens=_count(meta_info, "cached_tokens"),
        completion_tokens=_count(meta_info, "completion_tokens") or sum(count for _, count in arrivals),
        finish=str(reason.get("type") or "") if isinstance(reason, Mapping) else "",
        error=outcome.error,
        server_times={name: float(value) for name, value in times.items() if value is not None},
        retractions=_count(meta_info, "num_retractions"),
    )


def _count(meta_info: Mapping[str, Any], name: str) -> int:
    return int(number_in(meta_info, name) or 0)
