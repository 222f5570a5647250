"""Puts spans that overlap side by side."""

from __future__ import annotations

import heapq
from collections.abc import Iterable


def lanes(spans: Iterable[tuple[float, float]]) -> list[int]:
    """Return a lane for each span, so that no two spans of a lane overlap; lanes are few and low.

    Parameters
    ----------
    spans : iterable of (float, float)
        Begin and end, sorted by begin.

    Examples
    --------
    >>> lanes([(0, 4), (1, 2), (2, 3), (3.5, 5)])
    [0, 1, 1, 1]
    """
    chosen: list[int] = []
    open_until: list[tuple[float, int]] = []  # a heap of the spans that have not ended
    free: list[int] = []
    for start, end in spans:
        while open_until and open_until[0][0] <= start:
            heapq.heappush(free, heapq.heappop(open_until)[1])
        lane = heapq.heappop(free) if free else len(open_until)
        heapq.heappush(open_until, (end, lane))
        chosen.append(lane)
    return chosen
