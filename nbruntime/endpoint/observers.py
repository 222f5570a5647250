"""Observers of a client's requests, such as a profile that is being recorded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from nbruntime.generation.outcome import Outcome, Status, error_line, status_of
from nbruntime.generation.stream_state import BaseStream

MODEL_ROUTES = ("/generate", "/encode")
"""Routes whose requests are observed."""


class Observer(Protocol):
    """What is told of a request; both methods are quick, raise nothing and may run in any thread."""

    def note_sent(self, request: ObservedRequest) -> None:
        """Note that a request is being sent."""

    def note_ended(self, request: ObservedRequest) -> None:
        """Note that it has ended; may be called by the garbage collector, so it waits for no lock."""


class ObservedRequest:
    """One request and how it has gone; a ``with`` block spans it, or the opening of its stream."""

    def __init__(
        self, observers: Sequence[Observer], route: str, rids: Sequence[str], samples: int = 1
    ) -> None:
        self.route = route
        self.started = time.perf_counter()
        self._observers = observers
        self._rids = [rid for rid in rids or ("",) for _ in range(samples)]
        self._ended: float | None = None
        self._status: Status = "running"
        self._error = ""
        self._answers: list[Mapping[str, Any]] = []
        self._of_stream: Callable[[], list[Outcome]] | None = None
        for observer in observers:
            observer.note_sent(self)

    def answer(self, records: Any) -> None:
        """Take the server's whole answer: one record, or a list of them."""
        records = records if isinstance(records, list) else [records]
        self._answers = [record for record in records if isinstance(record, Mapping)]

    def follow(self, stream: BaseStream) -> None:
        """Let the request go on until the end of its stream."""
        self._of_stream = stream.watch(self._end)

    def outcomes(self) -> list[Outcome]:
        """Return how each of its sequences has gone so far."""
        if self._of_stream is not None:
            return self._of_stream()
        if self._answers:
            return [self._answered(index, record) for index, record in enumerate(self._answers)]
        return [
            Outcome(rid, index, self._status, self.started, self._ended, error=self._error)
            for index, rid in enumerate(self._rids)
        ]

    def _answered(self, index: int, record: Mapping[str, Any]) -> Outcome:
        meta_info = record.get("meta_info")
        meta_info = meta_info if isinstance(meta_info, Mapping) else {}
        reason, rid = meta_info.get("finish_reason"), meta_info.get("id")
        status = status_of(reason) if isinstance(reason, Mapping) else self._status
        own_rid = self._rids[index] if index < len(self._rids) else ""
        error = str(reason.get("message") or "") if status == "failed" and reason else ""
        return Outcome(
            rid if isinstance(rid, str) else own_rid,
            index,
            status,
            self.started,
            self._ended,
            meta_info=meta_info,
            error=error or self._error,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._of_stream is not None and error is None:
            return
        self._status = "finished"
        if isinstance(error, Exception):
            self._status, self._error = "failed", error_line(error)
        elif error is not None:  # an interrupt, or a cancellation
            self._status = "stopped"
        self._end()

    def _end(self) -> None:
        self._ended = time.perf_counter()
        for observer in self._observers:
            observer.note_ended(self)


class _Unobserved(ObservedRequest):
    """Stands for every request while there is no observer."""

    def __init__(self) -> None:
        super().__init__((), "", ())

    def answer(self, records: Any) -> None:
        pass

    def follow(self, stream: BaseStream) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


_UNOBSERVED = _Unobserved()


class Observers:
    """The observers of the requests of one client, and of the clients beside it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._observers: tuple[Observer, ...] = ()

    def add(self, observer: Observer) -> None:
        """Tell an observer of every request that is sent from now on."""
        with self._lock:
            self._observers = (*self._observers, observer)

    def remove(self, observer: Observer) -> None:
        """Tell it of no further request; it is still told of the end of those that it knows."""
        with self._lock:
            self._observers = tuple(each for each in self._observers if each is not observer)

    def observe(self, route: str, rids: Sequence[str], samples: int = 1) -> ObservedRequest:
        """Return a request that is about to be sent; only those to `MODEL_ROUTES` are observed."""
        observers = self._observers
        if not observers or route not in MODEL_ROUTES:
            return _UNOBSERVED
        return ObservedRequest(observers, route, rids, samples)
