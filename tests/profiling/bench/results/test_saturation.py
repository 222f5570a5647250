"""Whether a queue grew: simulated servers below and above what they can answer."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from support.load_tests import BEGIN, SimulatedServer, closed_run, open_run

from nbruntime.profiling.bench.results.run_figures import RunFigures
from nbruntime.profiling.bench.results.saturation import queue_growth

CAPACITY = 8.0
"""Requests per second that the simulated server answers: 4 at once, 0.5 s each."""


def test_the_capacity_of_the_simulated_server() -> None:
    assert SimulatedServer().slots / SimulatedServer().service == pytest.approx(CAPACITY)


@pytest.mark.parametrize("factor", [1.5, 2.0, 4.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_queue_grows_above_the_capacity(factor: float, seed: int) -> None:
    run = open_run(CAPACITY * factor, seed=seed)
    sent = [each.sent for each in run.requests]
    offered = len(sent) / (sent[-1] - BEGIN)
    growth = queue_growth(RunFigures(run))
    assert growth is not None
    # In each second the work of (rate / capacity) seconds arrives, of which one second is done.
    assert growth.slope == pytest.approx(offered / CAPACITY - 1, rel=0.25)
    assert growth.rise > 10


@pytest.mark.parametrize("seed", range(5))
def test_it_does_not_below(seed: int) -> None:
    assert queue_growth(RunFigures(open_run(CAPACITY / 2, seed=seed))) is None


def test_a_slow_but_even_server_has_no_growing_queue() -> None:
    slow = SimulatedServer(slots=100, prefill=3.0)
    assert queue_growth(RunFigures(open_run(4.0, slow))) is None


def test_only_open_loops_with_a_rate_are_judged() -> None:
    run = open_run(CAPACITY * 2)
    assert queue_growth(RunFigures(replace(run, rate=math.inf))) is None
    assert queue_growth(RunFigures(closed_run(50))) is None


def test_too_few_requests_show_nothing() -> None:
    run = open_run(CAPACITY * 2)
    first = [each for each in run.requests if each.sent >= run.steady[0]][:19]
    assert queue_growth(RunFigures(replace(run, requests=first))) is None
    together = [replace(first[0], rid=str(number)) for number in range(30)]
    assert queue_growth(RunFigures(replace(run, requests=together))) is None
