"""The knee of throughput-latency curves whose knee is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.load_tests import SimulatedServer, closed_run, open_run

from nbruntime.profiling.bench.results.answer import knee_in_words
from nbruntime.profiling.bench.results.result import BenchResult
from nbruntime.profiling.sweep_point import SweepPoint, knee


def curve(loads: list[float], e2e: list[float], loop: str = "open") -> list[SweepPoint]:
    """A curve of requests of one token: throughput is the rate, or by Little's law users / E2E."""
    return [
        SweepPoint("a", load, load if loop == "open" else load / seconds, e2e=seconds, loop=loop)  # type: ignore[arg-type]
        for load, seconds in zip(loads, e2e, strict=True)
    ]


@pytest.mark.parametrize("service_rate", [0.5, 10.0, 400.0])
def test_of_a_single_queue_it_is_at_half_the_service_rate(service_rate: float) -> None:
    """M/M/1: E2E = 1 / (service rate - rate), so that rate / E2E is largest at half the service rate."""
    loads = [service_rate * part for part in np.linspace(0.05, 0.95, 19)]
    found = knee(curve(loads, [1 / (service_rate - load) for load in loads]))
    assert found is not None
    assert found.load == pytest.approx(service_rate / 2)


def test_of_a_server_with_places_it_is_where_they_are_full() -> None:
    loads = [float(users) for users in range(1, 20)]
    found = knee(curve(loads, [max(1.0, users / 6) for users in loads], "closed"))
    assert found is not None
    assert found.load == 6


@pytest.mark.parametrize("seed", range(20))
def test_noise_of_five_percent_does_not_move_it(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(1, 0.05, 7)
    loads = [1.0, 2, 4, 8, 16, 32, 64]
    e2e = [max(1.0, users / 8) * factor for users, factor in zip(loads, noise, strict=True)]
    found = knee(curve(loads, e2e, "closed"))
    assert found is not None
    assert found.load == 8


def test_a_curve_that_still_rises_has_none() -> None:
    loads = [1.0, 2, 4, 8]
    rising = curve(loads, [1.0, 1.0, 1.1, 1.2], "closed")
    assert knee(rising) is None
    assert knee_in_words(rising) == "No knee up to 8 users: more load may still give more tokens/s."


def test_a_server_that_one_user_fills_has_it_at_or_below_the_first_point() -> None:
    full = curve([1.0, 2, 4, 8], [1.0, 2.0, 4.0, 8.0], "closed")
    assert knee_in_words(full) == "The knee is at 1 user or below: more load only makes requests wait longer."


def test_two_points_are_no_curve() -> None:
    assert knee_in_words(curve([1.0, 2.0], [1.0, 3.0])) == ""
    assert knee_in_words([]) == ""


def test_simulated_servers() -> None:
    closed = BenchResult([closed_run(users, seconds=20) for users in (1, 2, 4, 8, 16)])
    found = knee(closed.points())
    assert found is not None
    assert found.load == SimulatedServer().slots
    opened = BenchResult([open_run(rate) for rate in (1, 2, 4, 6, 8, 10, 12)])
    found = knee(opened.points())
    assert found is not None
    assert 4 <= found.load <= 8


@given(
    st.lists(st.floats(0.1, 100), min_size=3, max_size=12),
    st.floats(0.01, 100),
    st.floats(0.01, 100),
)
def test_units_do_not_matter(e2e: list[float], seconds: float, tokens: float) -> None:
    points = [SweepPoint("a", place, float(place), e2e=value) for place, value in enumerate(e2e, 1)]
    scaled = [
        SweepPoint("a", each.load, each.throughput * tokens, e2e=(each.e2e or 0) * seconds) for each in points
    ]
    first, second = knee(points), knee(scaled)
    powers = [each.throughput / (each.e2e or 1) for each in points]
    if sorted(powers)[-1] > sorted(powers)[-2] * (1 + 1e-9):  # no tie that rounding decides
        assert (first and first.load) == (second and second.load)
    if first is not None:
        assert first.throughput / (first.e2e or 1) == max(powers)
