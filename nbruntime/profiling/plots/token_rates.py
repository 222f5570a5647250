"""Output tokens per second over time, by the client's records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nbruntime.display.charts import nice_ceiling
from nbruntime.profiling.records import RequestRecord

BINS = 120
"""About so many points make the line of a rate."""


def bin_edges(start: float, end: float) -> NDArray[np.float64]:
    """Divide a time into bins of 1, 2 or 5 times a power of ten seconds; the last one may reach over its end.

    Examples
    --------
    >>> edges = bin_edges(100.0, 160.0)
    >>> len(edges), float(edges[1] - edges[0])
    (121, 0.5)
    """
    width = nice_ceiling(max(end - start, 1e-3) / BINS)
    bins = max(int(np.ceil((end - start) / width - 1e-9)), 1)
    return np.asarray(start + width * np.arange(bins + 1), np.float64)


def token_rates(requests: Sequence[RequestRecord], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the output tokens per second in each bin.

    The tokens of a request that was not streamed have no times: they are spread evenly over it.
    """
    times = np.array([request.sent + at for request in requests for at, _ in request.arrivals], np.float64)
    counts = np.array([count for request in requests for _, count in request.arrivals], np.float64)
    tokens = np.histogram(times, edges, weights=counts)[0]
    for request in requests:
        if not request.arrivals and request.completion_tokens:
            times_of_edges = (edges - request.sent) / max(request.e2e, 1e-9)
            tokens += np.diff(np.clip(times_of_edges, 0, 1)) * request.completion_tokens
    return np.asarray(tokens / np.diff(edges), np.float64)


def in_flight(requests: Sequence[RequestRecord]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return when the number of unanswered requests changes, and the numbers from then on."""
    sent = np.array([request.sent for request in requests], np.float64)
    ended = np.array([request.ended for request in requests], np.float64)
    times = np.concatenate([sent, ended])
    changes = np.concatenate([np.ones(len(sent), np.int64), -np.ones(len(ended), np.int64)])
    order = np.lexsort((changes, times))  # an end before a beginning at the same time
    return times[order], np.cumsum(changes[order])
