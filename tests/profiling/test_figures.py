"""The figures of requests, against counts by hand and SGLang's definitions."""

from __future__ import annotations

import pytest
from support.hand_profiles import START, profile, request

from nbruntime.profiling.figures import Distribution, Figures, union_length
from nbruntime.profiling.records import RequestRecord


def test_figures_of_two_requests() -> None:
    figures = Figures(
        [
            request("a", 0, 1, 1.5, 2, prompt_tokens=8, cached_tokens=6),
            request("b", 1, 3, 5, prompt_tokens=4),
        ]
    )
    assert (figures.finished, figures.failed, figures.stopped, figures.running) == (2, 0, 0, 0)
    assert figures.wall == 5
    assert figures.ttft == Distribution([1, 2])
    assert figures.itl == Distribution([0.5, 0.5, 2])
    assert figures.tpot == Distribution([0.5, 2])  # (2 - 1) / 2, and (4 - 2) / 1
    assert figures.e2e == Distribution([2, 4])
    assert figures.concurrency == pytest.approx((2 + 4) / 5)
    assert (figures.prompt_tokens, figures.cached_tokens, figures.completion_tokens) == (12, 6, 5)
    assert (figures.token_rate, figures.prompt_token_rate, figures.request_rate) == (1.0, 2.4, 0.4)
    assert figures.cache_hit_share == 0.5


def test_failed_stopped_and_running_requests_spoil_no_latency() -> None:
    good = request("a", 0, 1, 2)
    others = [
        request("b", 0, 9, ended=10, status="failed", error="ServerBusyError: full"),
        request("c", 0, 8, ended=9, status="stopped"),
        request("d", 0, 7, ended=7, status="running"),
    ]
    figures = Figures([good, *others])
    assert (figures.finished, figures.failed, figures.stopped, figures.running) == (1, 1, 1, 1)
    assert figures.ttft == Distribution([1])
    assert figures.e2e == Distribution([2])
    assert figures.itl == Distribution([1])
    assert figures.completion_tokens == 5  # their tokens did arrive
    assert figures.concurrency == pytest.approx(0.2)


def test_requests_that_were_not_streamed_have_no_ttft() -> None:
    figures = Figures([RequestRecord("a", START, START + 2, completion_tokens=4)])
    assert figures.ttft.median is None
    assert len(figures.itl) == len(figures.tpot) == 0
    assert (figures.e2e.median, figures.token_rate) == (2, 2)


def test_nothing_has_no_figures() -> None:
    figures = Figures([])
    assert (figures.wall, figures.active, figures.completion_tokens) == (0, 0, 0)
    assert figures.token_rate is figures.concurrency is figures.cache_hit_share is figures.ttft.mean is None
    assert figures.e2e.maximum is None


def test_quantiles_are_those_of_numpy() -> None:
    values = Distribution([4, 1, 3, 2])
    assert (values.median, values.mean, values.maximum) == (2.5, 2.5, 4)
    assert values.quantile(0.9) == pytest.approx(3.7)
    assert values != Distribution([1, 2, 3])
    assert values != "values"
    assert repr(values) == "Distribution([1, 2, 3, 4])"
    assert repr(Distribution(range(1000))) == "Distribution([0, 1, 2, 3, 4, 5, … 994 more])"


def test_active_time_leaves_out_the_gaps() -> None:
    figures = Figures([request("a", 0, 2), request("b", 1, 3), request("c", 8, 10)])
    assert (figures.wall, figures.active) == (10, 5)
    assert union_length([]) == 0


def test_duration_of_a_running_profile_is_until_the_last_event() -> None:
    ended = profile(request("a", 0, 2), ended=5)
    assert ended.duration == 5
    running = profile(request("a", 0, 2))
    running.ended = None
    assert running.duration == 2
    assert profile(ended=3).duration == 3


def test_tokens_that_come_at_once_take_no_time() -> None:
    # Unix times are exact to a part of a microsecond: their difference may be less than the first token's.
    sent, ended = 1795961610.4374504, 1795961610.4387248
    record = RequestRecord("a", sent, ended, ((ended - sent + 2e-7, 3),), completion_tokens=3)
    assert record.tpot == 0
