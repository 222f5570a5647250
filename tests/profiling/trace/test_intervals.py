"""Times of slices without those inside of them, against a loop over the slices."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nbruntime.profiling.trace.intervals import self_times

Slice = tuple[int, int, int]
"""Thread, start and end."""

SLICES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20), st.integers(0, 12))).map(
    lambda rows: sorted(
        ((thread, start, start + length) for thread, start, length in rows),
        key=lambda one: (one[0], one[1], -one[2]),
    )
)


def by_loop(slices: list[Slice]) -> list[int]:
    own = [end - start for _, start, end in slices]
    for number, (thread, start, end) in enumerate(slices):
        for outer in range(number - 1, -1, -1):
            other, _, stop = slices[outer]
            if other == thread and stop > start:
                own[outer] -= min(end, stop) - start
                break
    return own


@given(SLICES)
def test_self_times(slices: list[Slice]) -> None:
    """Also of slices that overlap, which Kineto writes now and then."""
    columns = np.array(slices, np.int64).reshape(-1, 3).T
    assert self_times(*columns).tolist() == by_loop(slices)


def test_many_neighbours() -> None:
    """One slice with 300,000 in it, one after the other."""
    start = np.concatenate([[0], np.arange(300_000) * 10])
    end = np.concatenate([[3_000_000], np.arange(300_000) * 10 + 9])
    own = self_times(np.zeros(len(start), np.int64), start, end)
    assert own[0] == 300_000
    assert (own[1:] == 9).all()
