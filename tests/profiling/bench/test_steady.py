"""The steady state of a run."""

from __future__ import annotations

import pytest

from nbruntime.profiling.bench.steady import steady_window
from nbruntime.profiling.records import RequestRecord


def closed_loop(users: int, rounds: int, lengths: tuple[float, ...] = (1.0,)) -> list[RequestRecord]:
    """Requests of users that begin together; each takes its time, with a short gap after it."""
    made = []
    for user in range(users):
        at = 100.0
        for turn in range(rounds):
            length = lengths[(user + turn) % len(lengths)]
            made.append(RequestRecord(f"{user}-{turn}", at, at + length))
            at += length + 0.001
    return sorted(made, key=lambda each: each.sent)


def window(requests: list[RequestRecord], loop: str = "closed", warmup: int = 0) -> tuple[float, float]:
    ended = max(each.ended for each in requests)
    return steady_window(requests, loop, warmup=warmup, started=requests[0].sent, ended=ended)  # type: ignore[arg-type]


def test_gaps_between_requests_do_not_end_it() -> None:
    begin, end = window(closed_loop(4, 10))
    assert begin == 100
    assert end == pytest.approx(110, abs=0.1)


def test_it_ends_when_the_users_run_dry() -> None:
    requests = [*closed_loop(4, 5), RequestRecord("last", 105.1, 130.0)]
    _, end = window(requests)
    assert end == pytest.approx(105, abs=0.1)


def test_it_begins_after_the_warmup() -> None:
    requests = closed_loop(4, 10)
    begin, _ = window(requests, warmup=4)
    assert begin == requests[4].sent > 100.5


def test_an_open_loop_lasts_until_the_last_sending() -> None:
    requests = [RequestRecord(str(n), 100.0 + n, 103.0 + n) for n in range(10)]
    assert window(requests, "open", warmup=2) == (102.0, 109.0)


def test_requests_that_are_sent_together_all_count() -> None:
    requests = [RequestRecord(str(n), 100.0, 101.0 + n) for n in range(10)]
    assert window(requests, "open") == (100.0, 110.0)
    assert window(closed_loop(8, 1)) == (100.0, 101.0)


def test_a_short_open_loop_counts_as_a_whole() -> None:
    requests = [RequestRecord(str(n), 100.0 + n, 110.0 + n) for n in range(10)]
    assert window(requests, "open") == (100.0, 119.0)


def test_a_run_that_ends_in_its_warmup_has_none() -> None:
    requests = closed_loop(4, 1)
    assert window(requests, warmup=4) == (101.0, 101.0)
    assert steady_window([], "open", warmup=0, started=1.0, ended=1.0) == (1.0, 1.0)
