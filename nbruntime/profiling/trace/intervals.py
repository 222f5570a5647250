"""Unions of intervals of time, and which slices lie inside of which."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from nbruntime.profiling.trace.events import Integers

Number = TypeVar("Number", np.int64, np.float64)


def union(
    starts: npt.NDArray[Number], ends: npt.NDArray[Number]
) -> tuple[npt.NDArray[Number], npt.NDArray[Number]]:
    """Join intervals that overlap or touch; return the starts and ends of the rest, in order.

    Examples
    --------
    >>> starts, ends = union(np.array([9, 0, 2]), np.array([12, 5, 3]))
    >>> starts.tolist(), ends.tolist()
    ([0, 9], [5, 12])
    """
    if not len(starts):
        return starts, ends
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    first = np.concatenate([[True], starts[1:] > ends[:-1]])
    last = np.concatenate([first[1:], [True]])
    return starts[first], ends[last]


def self_times(thread: npt.NDArray[np.signedinteger[Any]], start: Integers, end: Integers) -> Integers:
    """Subtract from each slice the time of the slices directly inside of it, on the same thread.

    Slices are sorted by thread, then by start, the longer one first. Of two that overlap, the time they share
    belongs to the later one.

    Examples
    --------
    >>> thread, start, end = np.array([1, 1, 1]), np.array([0, 2, 3]), np.array([10, 6, 5])
    >>> self_times(thread, start, end).tolist()
    [6, 2, 2]
    """
    outer = _outer(thread, start, end)
    inner = np.flatnonzero(outer >= 0)
    own = end - start
    np.subtract.at(own, outer[inner], np.minimum(end[inner], end[outer[inner]]) - start[inner])
    return own


def _outer(thread: npt.NDArray[np.signedinteger[Any]], start: Integers, end: Integers) -> Integers:
    """Return for each slice the place of the last one before it that is open at its start, or -1."""
    outer = np.arange(-1, len(start) - 1)
    outer[1:][thread[1:] != thread[:-1]] = -1
    wrong = np.flatnonzero(outer >= 0)
    while len(wrong):
        wrong = wrong[end[outer[wrong]] <= start[wrong]]
        # What lies between a slice and its own outer one has ended, too: so many are passed at once.
        outer[wrong] = outer[outer[wrong]]
        wrong = wrong[outer[wrong] >= 0]
    return outer
