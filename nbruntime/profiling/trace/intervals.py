"""Unions of intervals of time, and the gaps between them."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from nbruntime.profiling.trace.events import Integers

_Number = TypeVar("_Number", np.int64, np.float64)


def union(
    start: npt.NDArray[_Number], end: npt.NDArray[_Number]
) -> tuple[npt.NDArray[_Number], npt.NDArray[_Number]]:
    """Join intervals that overlap or touch, and sort them.

    Examples
    --------
    >>> start, end = union(np.array([9, 0, 2]), np.array([12, 5, 3]))
    >>> start.tolist(), end.tolist()
    ([0, 9], [5, 12])
    """
    if not len(start):
        return start, end
    order = np.argsort(start, kind="stable")
    start, reach = start[order], np.maximum.accumulate(end[order])
    new = np.concatenate([[True], start[1:] > reach[:-1]])
    last = np.concatenate([new[1:], [True]])
    return start[new], reach[last]


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
    own = (end - start).tolist()
    ends = end.tolist()
    open_slices: list[int] = []
    row = None
    for number, (at, begin, stop) in enumerate(zip(thread.tolist(), start.tolist(), ends, strict=True)):
        if at != row:
            row = at
            open_slices.clear()
        while open_slices and ends[open_slices[-1]] <= begin:
            open_slices.pop()
        if open_slices:
            outer = open_slices[-1]
            own[outer] -= min(stop, ends[outer]) - begin
        open_slices.append(number)
    return np.array(own, np.int64)
