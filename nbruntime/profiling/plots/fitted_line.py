"""A line through points that a few outliers do not bend."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST = 8
"""Fewer points get no line."""

MOST = 600
"""Of more points, so many evenly chosen ones make the line: their pairs are what counts."""


@dataclass(frozen=True, slots=True)
class FittedLine:
    """A line, and the 95 % interval of its slope."""

    slope: float
    at_zero: float
    low: float
    high: float


def fit_line(x: NDArray[np.float64], y: NDArray[np.float64]) -> FittedLine | None:
    """Return the line of Theil and Sen: the median of the slopes of all pairs, with Sen's interval.

    None for fewer than `FEWEST` points or three different `x`, and for a slope whose sign is not certain.

    Examples
    --------
    >>> x = np.arange(10.0)
    >>> fit_line(x, 2 * x + 1)
    FittedLine(slope=2.0, at_zero=1.0, low=2.0, high=2.0)
    """
    if len(x) < FEWEST or len(np.unique(x)) < 3:
        return None
    if len(x) > MOST:
        chosen = np.argsort(x, kind="stable")[np.linspace(0, len(x) - 1, MOST).astype(np.int64)]
        x, y = x[chosen], y[chosen]
    first, second = np.triu_indices(len(x), 1)
    across = x[second] - x[first]
    apart = across != 0
    slopes = np.sort((y[second] - y[first])[apart] / across[apart])
    count = len(x)
    spread = 1.96 * np.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    low = slopes[max(int((len(slopes) - spread) / 2), 0)]
    high = slopes[min(int((len(slopes) + spread) / 2), len(slopes) - 1)]
    if low <= 0 <= high:
        return None
    slope = float(np.median(slopes))
    return FittedLine(slope, float(np.median(y - slope * x)), float(low), float(high))
