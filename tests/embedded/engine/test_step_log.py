"""The engine's step log: bounded in steps and in memory, and read in pieces."""

from __future__ import annotations

import itertools
import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbruntime.embedded.engine import step_log
from nbruntime.embedded.engine.scheduler import DecodeStep, ExtendPart, ExtendStep
from nbruntime.embedded.engine.step_log import EngineStepLog
from nbruntime.protocol.step_log import Step, read_step_log, write_step_log

SCHEDULER: Any = SimpleNamespace(waiting=[1, 2], cache=SimpleNamespace(used=7))


def requests(*rids: str) -> tuple[Any, ...]:
    return tuple(SimpleNamespace(rid=rid) for rid in rids)


def decode(*rids: str) -> DecodeStep:
    return DecodeStep(requests(*rids))


def add(log: EngineStepLog, *steps: DecodeStep | ExtendStep) -> None:
    for step in steps:
        with log.step(step, SCHEDULER):
            pass


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock goes on by a second at each look."""
    ticks = itertools.count(100.0)
    monkeypatch.setattr(step_log, "now", lambda: next(ticks))


@pytest.mark.usefixtures("ticking")
def test_what_a_step_says() -> None:
    log = EngineStepLog()
    one, two = requests("a", "b")
    add(log, ExtendStep((ExtendPart(one, 0, 5), ExtendPart(two, 3, 2))))
    add(log, DecodeStep(requests("a"), requests("b")))
    with pytest.raises(ZeroDivisionError), log.step(decode("a"), SCHEDULER):
        _ = 1 // 0
    found = log.read()
    assert (found.server_time, found.oldest, found.more) == (106.0, 0, False)
    assert found.steps == [
        Step("EXTEND", 100.0, 1.0, 2, 7, 0, ("a", "b"), (5, 2), waiting=2, used_tokens=7),
        Step("DECODE", 102.0, 1.0, 1, 1, 1, ("a",), (1,), waiting=2, used_tokens=7, retracted=("b",)),
        Step("DECODE", 104.0, 1.0, 1, 1, 2, ("a",), (1,), waiting=2, used_tokens=7, failed=True),
    ]
    assert read_step_log(write_step_log(found)) == found


def test_it_keeps_the_newest_steps_and_says_which() -> None:
    log = EngineStepLog(most_steps=3)
    assert (log.read().oldest, log.read().steps) == (0, [])
    add(log, *[decode(str(number)) for number in range(10)])
    found = log.read()
    assert (found.oldest, [step.number for step in found.steps]) == (7, [7, 8, 9])
    assert [step.rids for step in found.steps] == [("7",), ("8",), ("9",)]


def test_long_rids_are_bounded_in_memory() -> None:
    log = EngineStepLog(most_bytes=100_000)
    add(log, *[decode("x" * 10_000, str(number)) for number in range(50)])
    assert len(log.read().steps) == 2
    add(log, decode("y" * 200_000))
    assert [step.number for step in log.read().steps] == [50]  # the last step stays
    add(log, decode("a"))
    assert [step.number for step in log.read().steps] == [51]


def test_the_steps_of_an_unchanged_batch_share_its_rids() -> None:
    log = EngineStepLog(most_bytes=step_log._STEP_BYTES * 100 + 10_000)
    add(log, *[decode("x" * 2_000, "b") for _ in range(100)])
    steps = log.read().steps
    assert len(steps) == 100
    assert len({id(step.rids) for step in steps}) == len({id(step.rid_tokens) for step in steps}) == 1


@given(
    batches=st.lists(st.lists(st.sampled_from("abcd"), max_size=3), max_size=40),
    most_steps=st.integers(1, 10),
    most_bytes=st.integers(300, 3000),
)
def test_its_own_count_of_memory_is_right(batches: list[list[str]], most_steps: int, most_bytes: int) -> None:
    log = EngineStepLog(most_steps, most_bytes)
    for rids in batches:
        add(log, decode(*rids))
        steps = log.read().steps
        runs = [next(run) for _, run in itertools.groupby(steps, key=lambda step: id(step.rids))]
        expected = step_log._STEP_BYTES * len(steps) + sum(step_log._rid_bytes(step.rids) for step in runs)
        assert log._bytes == expected
        assert len(steps) <= most_steps
        assert expected <= most_bytes or len(steps) == 1


@pytest.mark.parametrize("size", [1, 8])
@pytest.mark.parametrize("changing", [True, False])
def test_the_estimate_is_no_less_than_the_memory(size: int, changing: bool) -> None:
    log = EngineStepLog()

    def rid(step: int, place: int) -> str:
        return f"request {step if changing else 0} {place}"

    tracemalloc.start()
    try:
        for number in range(1000):
            add(log, decode(*[rid(number, place) for place in range(size)]))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken <= log._bytes


@pytest.mark.usefixtures("ticking")
def test_it_is_read_by_number_and_by_time() -> None:
    log = EngineStepLog()
    add(log, *[decode("a") for _ in range(5)])  # from 100 to 101, from 102 to 103, …

    def numbers(**query: Any) -> list[int]:
        return [step.number for step in log.read(**query).steps]

    assert numbers() == [0, 1, 2, 3, 4]
    assert (numbers(after=2), numbers(after=-5), numbers(after=9)) == ([3, 4], [0, 1, 2, 3, 4], [])
    assert (numbers(since=103.0), numbers(since=103.5)) == ([1, 2, 3, 4], [2, 3, 4])
    assert (numbers(until=104.0), numbers(until=103.5), numbers(until=99)) == ([0, 1, 2], [0, 1], [])
    assert numbers(after=0, since=100, until=104.5) == [1, 2]
    assert numbers(since=105, until=101) == []


def test_an_answer_is_bounded_and_says_that_there_is_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_log, "ANSWER_STEPS", 4)
    log = EngineStepLog()
    add(log, *[decode("a") for _ in range(10)])
    read: list[int] = []
    pieces = 0
    while True:
        found = log.read(after=read[-1] if read else None)
        read += [step.number for step in found.steps]
        pieces += 1
        if not found.more:
            break
    assert (read, pieces) == (list(range(10)), 3)
    assert not log.read(after=5).more

    monkeypatch.setattr(step_log, "ANSWER_BYTES", 3000)
    add(log, *[decode("x" * 1000) for _ in range(3)])
    found = log.read(after=8)
    assert [step.number for step in found.steps] == [9]
    assert found.more
    found = log.read(after=9)
    assert [step.number for step in found.steps] == [10]  # one that is too long alone is given nevertheless
    assert found.more
