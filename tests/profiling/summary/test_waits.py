"""Who waited behind whom, counted by hand."""

from __future__ import annotations

import pytest
from support.hand_profiles import START, decode, extend, profile, request, with_server_times

from nbruntime.profiling.summary.waits import Wait, waits
from nbruntime.protocol.step_log import Step


def of(found: list[Wait], rid: str) -> Wait:
    (wait,) = (each for each in found if each.request.rid == rid)
    return wait


def test_the_longest_prefill_in_the_queue_is_what_a_request_waited_behind() -> None:
    steps = [extend(0, 2, a=10), extend(2, 6, b=30, c=10), extend(6, 7, d=5)]
    wait = of(waits(profile(request("d", 1, 7, 8), steps=steps)), "d")
    assert wait.queued == 5
    # a took 1 s of it, b three quarters of 4 s, c the last quarter.
    assert (wait.behind, wait.behind_seconds) == ("b", 3)


def test_the_queue_begins_when_the_server_has_the_request() -> None:
    steps = [extend(2, 3, a=10)]
    slow_network = request("a", 0, 3, 4, **with_server_times(1.5, 2, 3))
    assert of(waits(profile(slow_network, steps=steps)), "a").queued == 0.5


def test_decode_and_own_steps_are_not_waited_for() -> None:
    steps = [extend(0, 1, a=10), decode(1, 2, "a"), extend(2, 3, b=10), decode(3, 4, "a", "b")]
    found = waits(profile(request("a", 0, 1, 2, 4), request("b", 1, 3, 4), steps=steps))
    assert (of(found, "b").behind, of(found, "b").behind_seconds) == ("", 0)
    assert (of(found, "a").decode, of(found, "a").stalled) == (3, 1)
    assert of(found, "b").stalled == 0


def test_a_mixed_step_stalls_nobody_whom_it_decodes() -> None:
    mixed = Step("MIXED", START + 1, 2.0, 2, 11, rids=("a", "b"), rid_tokens=(1, 10))
    found = waits(profile(request("a", 0, 1, 3), steps=[extend(0, 1, a=10), mixed]))
    assert (of(found, "a").decode, of(found, "a").stalled) == (2, 0)


def test_requests_that_no_step_names_are_left_out() -> None:
    assert waits(profile(request("a", 0, 1), steps=[extend(0, 1, other=5)])) == []
    assert waits(profile(request("a", 0, 1))) == []


@pytest.mark.parametrize("tokens", [(), (0, 0)])
def test_a_step_without_token_counts_is_divided_evenly(tokens: tuple[int, ...]) -> None:
    step = Step("EXTEND", START, 2.0, 2, 0, rids=("x", "y"), rid_tokens=tokens)
    wait = of(waits(profile(request("a", 0, 3), steps=[step, extend(2, 3, a=1)])), "a")
    assert (wait.behind, wait.behind_seconds) == ("x", 1)
