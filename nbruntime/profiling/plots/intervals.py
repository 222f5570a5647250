"""Sums over intervals of time, by columns of a plot; intervals may overlap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nbruntime.profiling.trace.intervals import union

Floats = NDArray[np.float64]


def time_before(at: Floats, starts: Floats, ends: Floats, weights: Floats | None = None) -> Floats:
    """Return the time that intervals spend before each of some times, each multiplied by its weight.

    Examples
    --------
    >>> time_before(np.array([0.5, 9.0]), np.array([0.0, 1.0]), np.array([1.5, 2.0]))
    array([0.5, 2.5])
    """
    if not len(starts):
        return np.zeros(len(at))
    weights = np.ones(len(starts)) if weights is None else weights
    times = np.concatenate([starts, ends])
    order = np.argsort(times, kind="stable")
    times = times[order]
    heights = np.cumsum(np.concatenate([weights, -weights])[order])
    area = np.concatenate([[0.0], np.cumsum(heights[:-1] * np.diff(times))])
    before: Floats = np.interp(at, times, area)
    return before


def overlap(starts: Floats, ends: Floats, edges: Floats, weights: Floats | None = None) -> Floats:
    """Return the time that intervals spend in each column, each multiplied by its weight.

    Examples
    --------
    >>> overlap(np.array([0.0, 1.0]), np.array([1.5, 2.0]), np.array([0.0, 1.0, 2.0]), np.array([1.0, 10.0]))
    array([ 1. , 10.5])
    """
    spent: Floats = np.diff(time_before(edges, starts, ends, weights))
    return spent


def common(starts: Floats, ends: Floats, other_starts: Floats, other_ends: Floats) -> tuple[Floats, Floats]:
    """Return the intersection of two sets of intervals, in which no two overlap.

    Examples
    --------
    >>> common(np.array([0.0]), np.array([5.0]), np.array([1.0, 4.0]), np.array([2.0, 9.0]))
    (array([1., 4.]), array([2., 5.]))
    """
    if not len(starts) or not len(other_starts):
        return np.empty(0), np.empty(0)
    bounds = np.unique(np.concatenate([starts, ends, other_starts, other_ends]))
    middles = (bounds[:-1] + bounds[1:]) / 2

    def inside(begins: Floats, stops: Floats) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        place = np.searchsorted(begins, middles, "right") - 1
        return np.asarray((place >= 0) & (middles < stops[place.clip(min=0)]))

    both = inside(starts, ends) & inside(other_starts, other_ends)
    return union(bounds[:-1][both], bounds[1:][both])


def highest(starts: Floats, ends: Floats, values: Floats, edges: Floats) -> Floats:
    """Return the largest value of the intervals that reach into each column; 0 where there is none.

    Examples
    --------
    >>> edges = np.array([0.0, 1.0, 2.0, 3.0])
    >>> highest(np.array([0.0, 0.5]), np.array([0.4, 1.5]), np.array([3.0, 2.0]), edges)
    array([3., 2., 0.])
    """
    columns = len(edges) - 1
    found = np.zeros(columns)
    inside = (ends > edges[0]) & (starts < edges[-1])
    first = np.searchsorted(edges, starts[inside], "right") - 1
    last = np.searchsorted(edges, ends[inside], "left") - 1
    first, last = first.clip(0, columns - 1), last.clip(0, columns - 1)
    widths = np.maximum(last - first, 0) + 1
    offsets = np.arange(widths.sum()) - np.repeat(np.cumsum(widths) - widths, widths)
    np.maximum.at(found, np.repeat(first, widths) + offsets, np.repeat(values[inside], widths))
    return found
