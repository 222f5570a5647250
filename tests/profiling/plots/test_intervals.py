"""Sums over intervals, against cases that are counted by hand or by brute force."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nbruntime.profiling.plots.intervals import Floats, highest, overlap, time_before
from nbruntime.profiling.trace.intervals import union

EDGES = np.arange(0.0, 11.0)
QUARTERS = st.integers(0, 40).map(lambda number: number / 4)
INTERVALS = st.lists(
    st.tuples(QUARTERS, QUARTERS).map(sorted).filter(lambda pair: pair[0] < pair[1]), max_size=12
)
"""Intervals whose bounds lie on quarters, so that samples between them tell all."""

SAMPLES = np.arange(0.125, 10, 0.25)


def columns(intervals: list[list[float]]) -> tuple[Floats, Floats]:
    starts, ends = np.array(intervals, dtype=float).reshape(-1, 2).T
    return starts, ends


def inside(starts: Floats, ends: Floats) -> Floats:
    """Return for each sample the number of intervals around it."""
    return ((starts[:, None] < SAMPLES) & (ends[:, None] > SAMPLES)).sum(axis=0).astype(float)


@given(INTERVALS)
def test_union_covers_what_any_interval_covers(intervals: list[list[float]]) -> None:
    starts, ends = columns(intervals)
    joined = union(starts, ends)
    assert (inside(*joined) == (inside(starts, ends) > 0)).all()
    assert (joined[0][1:] > joined[1][:-1]).all()  # in order, with gaps between


@given(INTERVALS)
def test_overlap_is_the_time_in_each_column(intervals: list[list[float]]) -> None:
    starts, ends = columns(intervals)
    weights = np.arange(1.0, len(starts) + 1)
    by_hand = (inside(starts, ends) / 4).reshape(10, 4).sum(axis=1)
    assert np.allclose(overlap(starts, ends, EDGES), by_hand)
    one_by_one = [overlap(starts[[i]], ends[[i]], EDGES) * weights[i] for i in range(len(starts))]
    assert np.allclose(overlap(starts, ends, EDGES, weights), sum(one_by_one, np.zeros(10)))


@given(INTERVALS)
def test_highest_is_the_largest_value_in_each_column(intervals: list[list[float]]) -> None:
    starts, ends = columns(intervals)
    values = np.arange(1.0, len(starts) + 1)
    rows = list(zip(starts, ends, values, strict=True))
    reaching = [[value for start, end, value in rows if start < low + 1 and end > low] for low in range(10)]
    expected = [max(each, default=0.0) for each in reaching]
    assert highest(starts, ends, values, EDGES).tolist() == expected


def test_what_lies_outside_of_the_columns_counts_only_inside() -> None:
    starts, ends = np.array([-5.0, 9.5, 20.0]), np.array([0.5, 30.0, 21.0])
    assert overlap(starts, ends, EDGES).tolist() == [0.5, *[0.0] * 8, 0.5]
    assert highest(starts, ends, np.array([1.0, 2.0, 3.0]), EDGES).tolist() == [1.0, *[0.0] * 8, 2.0]
    assert time_before(np.array([-9.0, 99.0]), starts, ends).tolist() == [0.0, 27.0]
