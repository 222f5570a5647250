"""Thresholds of load tests, and which requests meet them."""

from __future__ import annotations

import math

import pytest

from nbruntime.errors import ArgumentTypeError, ArgumentValueError
from nbruntime.profiling.bench.results.goodput import (
    THRESHOLDS,
    in_words,
    met_all,
    met_each,
    missed_most,
    read_thresholds,
)
from nbruntime.profiling.records import RequestRecord

ANSWER = RequestRecord("a", 10.0, 12.0, ((0.5, 1), (1.0, 1), (1.7, 1)), completion_tokens=3)
"""TTFT 0.5 s, ITL 0.6 s at the mean, TPOT 0.75 s, E2E 2 s."""


LIMITS = {
    "ttft": (0.51, 0.49),
    "itl": (0.61, 0.59),
    "tpot": (0.76, 0.74),
    "e2e": (2.01, 1.99),
    "tokens_per_second": (1.33, 1.34),
}
"""For each threshold one that it meets, and one that it misses."""


@pytest.mark.parametrize("name", THRESHOLDS)
def test_each_threshold(name: str) -> None:
    met, missed = LIMITS[name]
    assert met_all(ANSWER, {name: met}) is True
    assert met_all(ANSWER, {name: missed}) is False


def test_a_request_meets_all_or_misses() -> None:
    assert met_all(ANSWER, {"ttft": 0.6, "e2e": 2.5}) is True
    assert met_all(ANSWER, {"ttft": 0.6, "e2e": 1.5}) is False
    assert met_each(ANSWER, {"ttft": 0.6, "e2e": 1.5}) == {"ttft": True, "e2e": False}


@pytest.mark.parametrize(("status", "expected"), [("failed", False), ("stopped", None), ("running", None)])
def test_failed_requests_miss_and_stopped_ones_do_not_count(status: str, expected: bool | None) -> None:
    record = RequestRecord("a", 10.0, 10.1, ((0.05, 1),), status=status, completion_tokens=1)  # type: ignore[arg-type]
    assert met_all(record, {"ttft": 9.0}) is expected


def test_what_cannot_be_told_does_not_count_unless_another_threshold_is_missed() -> None:
    one_token = RequestRecord("a", 10.0, 11.0, ((0.5, 1),), completion_tokens=1)
    assert met_all(one_token, {"ttft": 0.6, "tpot": 9.0}) is None
    assert met_all(one_token, {"ttft": 0.4, "tpot": 9.0}) is False
    not_streamed = RequestRecord("a", 10.0, 11.0, completion_tokens=9)
    assert met_all(not_streamed, {"ttft": 9.0}) is None
    assert met_all(not_streamed, {"e2e": 9.0}) is True


def test_tokens_that_come_at_once_are_fast() -> None:
    at_once = RequestRecord("a", 10.0, 10.5, ((0.5, 2),), completion_tokens=2)
    assert met_all(at_once, {"tokens_per_second": 1e9}) is True


def test_the_threshold_that_most_missed() -> None:
    late = RequestRecord("b", 10.0, 13.0, ((2.0, 1), (2.1, 2)), completion_tokens=3)
    limits = {"ttft": 0.6, "tpot": 0.6}
    assert missed_most([ANSWER, late, late], limits) == "ttft"
    assert missed_most([ANSWER], limits) == "tpot"
    assert missed_most([ANSWER], {"ttft": 1.0}) is None
    assert missed_most([], limits) is None


def test_thresholds_in_words() -> None:
    assert in_words({"ttft": 0.5}) == "TTFT < 500 ms"
    assert in_words({"ttft": 0.5, "tpot": 0.05, "e2e": 30}) == "TTFT < 500 ms, TPOT < 50 ms and E2E < 30 s"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"tftt": 1}, ArgumentTypeError, "'tftt'(.|\n)*mean 'ttft'"),
        ({"e2el": 1}, ArgumentTypeError, "mean 'e2e'"),
        ({"ttft": "fast"}, ArgumentTypeError, "number, not str"),
        ({"ttft": True}, ArgumentTypeError, "number, not bool"),
        ({"ttft": 0}, ArgumentValueError, "positive"),
        ({"ttft": math.nan}, ArgumentValueError, "positive"),
        ({"ttft": math.inf}, ArgumentValueError, "finite"),
        (["ttft"], ArgumentTypeError, "mapping"),
    ],
)
def test_wrong_thresholds(given: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_thresholds(given)  # type: ignore[arg-type]
