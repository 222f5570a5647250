"""The bars of the waterfall: each request's time, divided as far as it is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.records import RequestRecord


class Part(StrEnum):
    """What a request's time went into; the value is its name in pictures."""

    WAY = "way to the server"
    QUEUE = "queue"
    PREFILL = "prefill"
    DECODE = "decode"
    FIRST_TOKEN = "until the first token"  # queue and prefill together, of a server that gives no times
    REST = "after the first token"
    WHOLE = "no token times"  # not streamed, or it failed before


@dataclass(frozen=True)
class RequestBars:
    """The parts of all requests, as columns.

    Parameters
    ----------
    row : array of int
        Place among the requests.
    start, end : array of float
        Unix times.
    part : list of Part
        What the time went into.
    """

    row: NDArray[np.int64]
    start: NDArray[np.float64]
    end: NDArray[np.float64]
    part: list[Part]

    def of(self, part: Part) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Return the rows, starts and ends of one part."""
        chosen = np.array([other is part for other in self.part], bool)
        return self.row[chosen], self.start[chosen], self.end[chosen]


def request_bars(data: ProfileData) -> RequestBars:
    """Divide the time of each request."""
    found = [(row, *part) for row, request in enumerate(data.requests) for part in _parts(data, request)]
    return RequestBars(
        np.array([row for row, *_ in found], np.int64),
        np.array([start for _, _, start, _ in found], np.float64),
        np.array([end for _, _, _, end in found], np.float64),
        [part for _, part, _, _ in found],
    )


def _parts(data: ProfileData, request: RequestRecord) -> Iterator[tuple[Part, float, float]]:
    phases = data.phases(request)
    if phases.prefill is not None:
        received = phases.received or phases.sent
        decode = request.ended if phases.decode is None else phases.decode
        marks = [
            (Part.WAY, phases.sent),
            (Part.QUEUE, received),
            (Part.PREFILL, phases.prefill),
            (Part.DECODE, decode),
        ]
    elif request.ttft is not None:
        marks = [(Part.FIRST_TOKEN, request.sent), (Part.REST, request.sent + request.ttft)]
    else:
        marks = [(Part.WHOLE, request.sent)]
    ends = [start for _, start in marks[1:]] + [request.ended]
    for (part, start), end in zip(marks, ends, strict=True):
        if end > start:
            yield part, start, end
