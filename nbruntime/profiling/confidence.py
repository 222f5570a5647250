"""How certain a figure is: bootstrap intervals of quantiles and rates, and the interval of a share.

What is resampled are the requests, for ITL with all their events, since those of one request are alike; for a
rate the tenths of the steady state. The seed is fixed: the same data has the same intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
"""How often such intervals hold the true value."""

RESAMPLES = 1000
FEWEST = 5
"""Fewer requests have no interval."""

_PARTS = 10
_SEED = 0
_BINS = 512
_ROWS = 100  # resamples at once: bounds the memory
_DRAWS = 1_000_000  # of many groups there are fewer resamples, at least 200: bounds the time

Interval = tuple[float, float]
Values = NDArray[np.float64]


def quantile_interval(values: Values, share: float) -> Interval | None:
    """Return the bootstrap interval of a quantile of one value per request; None for too few.

    The k-th smallest of n values drawn with replacement is the value at the place of the k-th smallest of n
    uniform numbers, which is Beta distributed: so no sample has to be drawn.

    Examples
    --------
    >>> low, high = quantile_interval(np.arange(101.0), 0.5)
    >>> 35 <= low < 50 < high <= 65
    True
    """
    return _bounds(_resampled(values, share, np.random.default_rng(_SEED))) if len(values) >= FEWEST else None


def difference_interval(first: Values, second: Values, share: float) -> Interval | None:
    """Return the bootstrap interval of how much higher a quantile of `second` is; None for too few values.

    Examples
    --------
    >>> low, high = difference_interval(np.arange(101.0), np.arange(101.0) + 50, 0.5)
    >>> 20 < low < 50 < high < 80
    True
    """
    if min(len(first), len(second)) < FEWEST:
        return None
    random = np.random.default_rng(_SEED)
    return _bounds(_resampled(second, share, random) - _resampled(first, share, random))


def grouped_quantile_interval(groups: Sequence[Sequence[float]], share: float) -> Interval | None:
    """Return the bootstrap interval of a quantile of all values, if whole groups are drawn; None for too few.

    Many values are counted in 512 bins of equal weight, whose edges are then the estimates.
    """
    groups = [group for group in groups if group]
    if len(groups) < FEWEST:
        return None
    values = np.concatenate([np.asarray(group, np.float64) for group in groups])
    owner = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    edges = np.unique(values)
    if len(edges) > _BINS:
        edges = np.unique(np.quantile(values, np.linspace(0, 1, _BINS), method="inverted_cdf"))
    places = np.searchsorted(edges, values)  # the first edge that is not below the value
    table = np.zeros((len(groups), len(edges)))
    np.add.at(table, (owner, places), 1)
    random = np.random.default_rng(_SEED)
    chances = np.full(len(groups), 1 / len(groups))
    estimates = []
    for _ in range(min(max(_DRAWS // len(groups), 200), RESAMPLES) // _ROWS):
        drawn = random.multinomial(len(groups), chances, size=_ROWS) @ table
        totals = np.cumsum(drawn, axis=1)
        estimates.append(edges[np.argmax(totals >= share * totals[:, -1:], axis=1)])
    return _bounds(np.concatenate(estimates))


def rate_interval(times: Values, weights: Values, start: float, end: float) -> Interval | None:
    """Return the bootstrap interval of the weight per second from `start` to `end`, by tenths of that time.

    Tenths instead of single events, since events come in bursts that depend on each other.
    """
    inside = (times >= start) & (times <= end)
    if end <= start or np.count_nonzero(inside) < _PARTS:
        return None
    sums, _ = np.histogram(times[inside], bins=_PARTS, range=(start, end), weights=weights[inside])
    drawn = np.random.default_rng(_SEED).integers(_PARTS, size=(RESAMPLES, _PARTS))
    return _bounds(sums[drawn].sum(axis=1) / (end - start))


def share_interval(hits: int, total: int) -> Interval | None:
    """Return Wilson's interval of a share; the bootstrap has none where all or none hit.

    Examples
    --------
    >>> low, high = share_interval(20, 20)
    >>> round(low, 2), high
    (0.84, 1.0)
    """
    if not total:
        return None
    z = 1.959964
    share = hits / total
    centre = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    low, high = ((centre + sign * half) / (1 + z * z / total) for sign in (-1, 1))
    return (0.0 if hits == 0 else low, 1.0 if hits == total else high)


def _resampled(values: Values, share: float, random: np.random.Generator) -> Values:
    """Return a quantile of each of `RESAMPLES` samples."""
    count = len(values)
    ordered = np.sort(values)
    place = (count - 1) * share
    below = math.floor(place)
    lower = random.beta(below + 1, count - below, RESAMPLES)
    estimates = _at(ordered, lower)
    if below + 1 < count:
        upper = lower + (1 - lower) * random.beta(1, count - below - 1, RESAMPLES)
        estimates += (place - below) * (_at(ordered, upper) - estimates)
    return estimates


def _at(ordered: Values, places: Values) -> Values:
    return ordered[np.minimum((places * len(ordered)).astype(np.int64), len(ordered) - 1)]


def _bounds(estimates: Values) -> Interval:
    low, high = np.quantile(estimates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
