"""The figures of a run: counted by hand, and what always holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.load_tests import closed_run, open_run

from nbruntime.profiling.bench.results.goodput import met_each
from nbruntime.profiling.bench.results.run_figures import RunFigures
from nbruntime.profiling.bench_run import BenchRun
from nbruntime.profiling.records import RequestRecord

WARMUP = RequestRecord("w", 99.0, 101.5, ((0.5, 1), (2.0, 1)), completion_tokens=2, scheduled=99.0)
"""Sent before the steady state; its second token came in it."""

FIRST = RequestRecord(
    "a", 100.0, 102.0, ((0.5, 1), (1.0, 2), (2.0, 1)), prompt_tokens=10, completion_tokens=4, scheduled=99.5
)
SECOND = RequestRecord("b", 101.0, 105.0, ((1.0, 1), (3.5, 1)), prompt_tokens=20, completion_tokens=2)
"""Its second token came after the steady state."""

FAILED = RequestRecord(
    "c", 101.5, 102.5, ((0.9, 1),), "failed", prompt_tokens=7, error="ServerBusyError: full"
)
STOPPED = RequestRecord("d", 103.0, 104.0, ((0.2, 3),), "stopped", prompt_tokens=30, completion_tokens=3)
LATER = RequestRecord("e", 104.1, 104.6, ((0.1, 1),), completion_tokens=1)
"""Sent when the steady state was over."""

RUN = BenchRun(
    "tiny",
    "http://127.0.0.1:30000",
    "tiny",
    "closed",
    None,
    3,
    99.0,
    105.0,
    (100.0, 104.0),
    [WARMUP, FIRST, SECOND, FAILED, STOPPED, LATER],
)


def figures(run: BenchRun = RUN, **thresholds: float) -> RunFigures:
    return RunFigures(run, thresholds)


def test_requests_that_were_sent_in_the_steady_state_are_counted() -> None:
    found = figures()
    assert found.requests == [FIRST, SECOND, FAILED, STOPPED]
    assert (found.finished, found.failed, found.stopped, found.seconds) == (2, 1, 1, 4.0)


def test_latencies_are_those_of_finished_requests() -> None:
    found = figures()
    assert found.ttft.values.tolist() == [0.5, 1.0]
    assert found.e2e.values.tolist() == [2.0, 4.0]
    assert found.itl.values.tolist() == [0.5, 1.0, 2.5]
    assert found.tpot.values.tolist() == [(2.0 - 0.5) / 3, (4.0 - 1.0) / 1]
    assert found.tokens_per_second_each == pytest.approx(1 / 1.75)
    assert found.tokens_per_event == 6 / 5


def test_rates_are_what_came_in_the_steady_state() -> None:
    found = figures()
    # The warm-up's second token, four of the first request, one of the second, three of the stopped one.
    assert found.token_rate == 9 / 4
    assert found.request_rate == 2 / 4  # the warm-up and the first request ended in it
    assert found.prompt_token_rate == (10 + 20 + 30) / 4
    assert found.total_token_rate == 60 / 4 + 9 / 4
    assert found.peak_token_rate == 3  # in the second second: of the warm-up and the first; in the fourth
    # The warm-up for 1.5 s, the first request for 2 s, the second for 3 s, the stopped one for 1 s.
    assert found.concurrency == (1.5 + 2 + 3 + 1) / 4
    assert found.peak_concurrency == 3


def test_lateness() -> None:
    assert figures().lateness.values.tolist() == [0.5]


def test_goodput() -> None:
    found = figures(ttft=0.6)
    assert (found.met, found.missed) == (1, 2)  # the second was late, another failed
    assert found.attainment == 1 / 3
    assert found.goodput == 1 / 4
    both = figures(ttft=2.0, tpot=0.6)
    assert (both.attainment_of("ttft"), both.attainment_of("tpot"), both.attainment) == (2 / 3, 1 / 3, 1 / 3)


def test_without_thresholds_there_is_no_goodput() -> None:
    assert figures().goodput is None
    assert figures().attainment is None


def test_a_request_that_was_not_streamed_brings_its_tokens_at_its_end() -> None:
    whole = RequestRecord("a", 100.0, 102.0, completion_tokens=8)
    found = figures(replace(RUN, requests=[whole]))
    assert found.token_rate == 8 / 4
    assert found.peak_token_rate == 8
    assert len(found.ttft) == len(found.itl) == len(found.tpot) == 0
    assert found.ttft.median is None


def test_events_together_have_the_tokens_that_the_server_counted() -> None:
    """The last token may come without text of its own, and an event of one token with the text of two."""
    odd = RequestRecord("a", 100.0, 102.0, ((0.5, 1), (1.0, 1)), completion_tokens=3)
    assert figures(replace(RUN, requests=[odd])).token_rate == 3 / 4


def test_without_requests_or_time_figures_are_unknown() -> None:
    empty = figures(replace(RUN, requests=[]))
    assert (empty.token_rate, empty.request_rate, empty.concurrency, empty.peak_concurrency) == (0, 0, 0, 0)
    assert empty.ttft.median is None
    assert empty.interval("token_rate") is None
    short = figures(replace(RUN, steady=(100.0, 100.0)), ttft=1.0)
    assert [short.token_rate, short.request_rate, short.total_token_rate, short.goodput] == [None] * 4
    assert short.peak_token_rate is None


def test_intervals_hold_the_figure() -> None:
    found = RunFigures(open_run(6.0), {"ttft": 0.1})
    for name, value in (
        ("ttft", found.ttft.median),
        ("itl", found.itl.median),
        ("tpot", found.tpot.median),
        ("e2e", found.e2e.median),
        ("token_rate", found.token_rate),
        ("request_rate", found.request_rate),
        ("attainment", found.attainment),
    ):
        low, high = found.interval(name) or (1, 0)
        assert value is not None
        assert low - 1e-9 <= value <= high + 1e-9, name
    low, high = found.interval("ttft", 0.99) or (0, 0)
    assert high > (found.ttft.median or 0)
    with pytest.raises(KeyError):
        found.interval("beauty")


def test_concurrency_of_a_closed_loop_is_its_users() -> None:
    assert figures(closed_run(3)).concurrency == pytest.approx(3, rel=0.02)
    assert figures(closed_run(3)).peak_concurrency == 3


@st.composite
def requests(draw: st.DrawFn) -> list[RequestRecord]:
    made = []
    for number in range(draw(st.integers(0, 12))):
        sent = draw(st.floats(90, 110))
        gaps = draw(st.lists(st.floats(0.001, 3), max_size=6))
        counts = draw(st.lists(st.integers(1, 3), min_size=len(gaps), max_size=len(gaps)))
        times = np.cumsum(gaps)
        made.append(
            RequestRecord(
                f"r{number}",
                sent,
                sent + float(times[-1] if len(times) else 1.0),
                tuple(zip(map(float, times), counts, strict=True)),
                draw(st.sampled_from(["finished", "finished", "failed", "stopped"])),  # type: ignore[arg-type]
                completion_tokens=sum(counts),
            )
        )
    return sorted(made, key=lambda each: each.sent)


@given(requests())
def test_failed_requests_change_no_latency_and_no_rate(drawn: list[RequestRecord]) -> None:
    found = figures(replace(RUN, requests=drawn), ttft=1.0)
    without = figures(replace(RUN, requests=[each for each in drawn if each.status != "failed"]), ttft=1.0)
    assert found.ttft == without.ttft
    assert found.itl == without.itl
    assert found.tpot == without.tpot
    assert found.e2e == without.e2e
    assert found.token_rate == without.token_rate
    assert found.goodput == without.goodput
    assert (found.attainment or 0) <= (without.attainment or 0) or without.attainment is None


@given(requests())
def test_what_always_holds(drawn: list[RequestRecord]) -> None:
    found = figures(replace(RUN, requests=drawn), ttft=1.0, e2e=3.0)
    assert found.finished + found.failed + found.stopped == len(found.requests)
    assert found.met + found.missed <= len(found.requests)
    for times in (found.ttft, found.tpot, found.itl, found.e2e):
        quantiles = [times.quantile(share) for share in (0, 0.5, 0.9, 0.95, 0.99, 1)]
        known = [value for value in quantiles if value is not None]
        assert known == sorted(known)
    assert (found.concurrency or 0) <= found.peak_concurrency + 1e-9
    if found.peak_token_rate is not None and found.token_rate:
        assert found.peak_token_rate >= found.token_rate * 4 / 5 - 1e-9  # in one of at most five seconds
    for name in found.thresholds:
        assert found.met <= sum(met_each(each, found.thresholds)[name] is True for each in found.requests)
