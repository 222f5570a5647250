"""Bootstrap intervals: against drawing samples, and how often they hold the true value."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbruntime.profiling.confidence import (
    grouped_quantile_interval,
    quantile_interval,
    rate_interval,
    share_interval,
)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_the_interval_is_that_of_drawn_samples(share: float) -> None:
    random = np.random.default_rng(7)
    values = random.exponential(1.0, 150)
    drawn = np.quantile(random.choice(values, size=(20_000, 150)), share, axis=1)
    expected = np.quantile(drawn, [0.025, 0.975])
    found = quantile_interval(values, share)
    spread = np.ptp(expected)
    np.testing.assert_allclose(found, expected, atol=0.15 * spread)


def test_a_95_percent_interval_holds_the_median_in_about_95_of_100_cases() -> None:
    random = np.random.default_rng(3)
    held = 0
    for _ in range(400):
        found = quantile_interval(random.exponential(1.0, 60), 0.5)
        assert found is not None
        held += found[0] <= np.log(2) <= found[1]
    assert 0.90 <= held / 400 <= 0.99


def test_values_that_come_in_groups_have_a_wider_interval() -> None:
    random = np.random.default_rng(5)
    groups = [(random.normal(level, 0.01, 40)).tolist() for level in random.normal(10, 1, 20)]
    found = grouped_quantile_interval(groups, 0.5)
    alone = quantile_interval(np.concatenate(groups), 0.5)
    assert found is not None
    assert alone is not None
    assert found[1] - found[0] > 2 * (alone[1] - alone[0])
    middle = np.median(np.concatenate(groups))
    assert found[0] <= middle <= found[1]


def test_groups_of_one_value_have_the_interval_of_the_values() -> None:
    values = np.random.default_rng(2).exponential(1.0, 200)
    found = grouped_quantile_interval([[value] for value in values], 0.9)
    np.testing.assert_allclose(found, quantile_interval(values, 0.9), rtol=0.1)


def test_many_values_are_counted_in_bins() -> None:
    random = np.random.default_rng(2)
    groups = [random.exponential(1.0, 100).tolist() for _ in range(300)]
    found = grouped_quantile_interval(groups, 0.5)
    assert found is not None
    assert 0.65 < found[0] < np.log(2) < found[1] < 0.74


def test_a_rate() -> None:
    times = np.arange(0.05, 100, 0.1)
    assert rate_interval(times, np.full(1000, 2.0), 0.0, 100.0) == pytest.approx((20.0, 20.0))
    bursts = np.repeat([5.0, 55.0], 500)
    low, high = rate_interval(bursts, np.ones(1000), 0.0, 100.0) or (0, 0)
    assert low < 5
    assert high > 15


def test_too_few_values_have_no_interval() -> None:
    assert quantile_interval(np.array([1.0, 2.0, 3.0]), 0.5) is None
    assert grouped_quantile_interval([[1.0] * 100, []], 0.5) is None
    assert rate_interval(np.array([1.0]), np.array([1.0]), 0.0, 2.0) is None
    assert rate_interval(np.array([]), np.array([]), 0.0, 0.0) is None
    assert share_interval(0, 0) is None


def test_a_share() -> None:
    assert share_interval(45, 50) == pytest.approx((0.7864, 0.9565), abs=1e-4)  # Wilson's, from a table
    assert (share_interval(0, 10) or (1, 1))[0] == 0
    assert (share_interval(10, 10) or (0, 0))[1] == 1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0, 1e3), min_size=5, max_size=60),
    st.floats(0, 1),
)
def test_intervals_lie_within_the_values_and_are_the_same_each_time(
    values: list[float], share: float
) -> None:
    array = np.array(values)
    found = quantile_interval(array, share)
    assert found is not None
    assert min(values) <= found[0] <= found[1] <= max(values)
    assert quantile_interval(array[::-1], share) == found
    grouped = grouped_quantile_interval([[value] for value in values], share)
    assert grouped is not None
    assert min(values) <= grouped[0] <= grouped[1] <= max(values)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 200), st.integers(1, 200))
def test_the_interval_of_a_share_holds_the_share(hits: int, total: int) -> None:
    hits = min(hits, total)
    low, high = share_interval(hits, total) or (1, 0)
    assert 0 <= low <= hits / total <= high <= 1
