"""What the server ran between two events of a request, in cases that are counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from support.simulated_profile import simulated_profile

from nbruntime.profiling.plots.token_gaps import Meanwhile, token_gaps
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.records import RequestRecord
from nbruntime.protocol.step_log import Step

DECODE, PREFILL, RETRACTION, UNKNOWN = Meanwhile


def request(rid: str, *ends: float, delay: float = 0.0, retractions: int = 0) -> RequestRecord:
    """A request that was sent at 100 s; a token arrives `delay` after each of `ends`."""
    arrivals = tuple((end + delay, 1) for end in ends)
    return RequestRecord(rid, 100.0, 100.0 + ends[-1] + delay, arrivals, retractions=retractions)


def step(stage: str, start: float, end: float, *rids: str, tokens: tuple[int, ...] = ()) -> Step:
    return Step(stage, 100.0 + start, end - start, len(rids), 1, rids=rids, rid_tokens=tokens)


def ran(data: ProfileData) -> list[int]:
    return [int(kind) for kind in token_gaps(data).meanwhile]


NEIGHBOURS = [
    step("EXTEND", 0, 1, "a"),
    step("DECODE", 1, 2, "a"),
    step("EXTEND", 2, 5, "b"),
    step("DECODE", 5, 6, "a", "b"),
    step("DECODE", 6, 7, "a", "b"),
]


@pytest.mark.parametrize("delay", [0.0, 0.5, 1.5])
def test_prefill_of_another_request(delay: float) -> None:
    """The way to the client, even one longer than a step, moves nothing to another gap."""
    requests = [request("a", 1, 2, 6, 7, delay=delay), request("b", 5, 6, 7, delay=delay)]
    assert ran(ProfileData(requests=requests, steps=NEIGHBOURS)) == [DECODE, PREFILL, DECODE, DECODE, DECODE]


def test_columns() -> None:
    arrivals = ((1.0, 1), (1.5, 2), (2.5, 3))
    data = ProfileData(
        requests=[RequestRecord("x", 0, 9), RequestRecord("y", 100, 109, arrivals)], steps=NEIGHBOURS
    )
    gaps = token_gaps(data)
    assert gaps.request.tolist() == [1, 1]
    assert gaps.position.tolist() == [2, 4]
    assert gaps.seconds.tolist() == [0.5, 1.0]
    assert gaps.tokens.tolist() == [2, 3]


def test_events_of_several_tokens_span_several_steps() -> None:
    arrivals = ((1.0, 1), (6.0, 2), (7.0, 1))
    data = ProfileData(requests=[RequestRecord("a", 100, 107, arrivals)], steps=NEIGHBOURS)
    assert ran(data) == [PREFILL, DECODE]


def test_prompt_in_chunks_gives_one_token() -> None:
    steps = [step("EXTEND", 0, 1, "a"), step("EXTEND", 1, 2, "a"), step("DECODE", 2, 3, "a")]
    assert ran(ProfileData(requests=[request("a", 2, 3, delay=2.5)], steps=steps)) == [DECODE]


def test_retraction_is_the_own_prefill_again() -> None:
    steps = [
        step("EXTEND", 0, 1, "a"),
        step("DECODE", 1, 2, "a"),
        step("EXTEND", 3, 4, "b"),
        step("EXTEND", 4, 5, "a"),
        step("DECODE", 5, 6, "a", "b"),
    ]
    assert ran(ProfileData(requests=[request("a", 1, 2, 5, 6, retractions=1)], steps=steps)) == [
        DECODE,
        RETRACTION,
        DECODE,
    ]


def test_own_first_prefill_is_no_stall_where_the_clocks_differ() -> None:
    """The server's clock is ahead, so that its first step seems to end after the first token."""
    steps = [step("EXTEND", 0.3, 1.3, "a"), step("VERIFY", 1.3, 2.3, "a")]
    data = ProfileData(requests=[request("a", 1, 1.9, 2, 2.1)], steps=steps)
    assert ran(data) == [DECODE, DECODE, DECODE]


def test_mixed_step_decodes_one_and_prefills_another() -> None:
    steps = [
        step("EXTEND", 0, 1, "a", tokens=(9,)),
        step("MIXED", 1, 2, "b", "a", tokens=(50, 1)),
        step("DECODE", 2, 3, "a", "b", tokens=(1, 1)),
    ]
    assert ran(ProfileData(requests=[request("a", 1, 2, 3)], steps=steps)) == [PREFILL, DECODE]


def test_steps_without_names_count_by_the_clock() -> None:
    steps = [step("EXTEND", 0, 1), step("DECODE", 1, 2), step("EXTEND", 2, 5), step("DECODE", 5, 6)]
    assert ran(ProfileData(requests=[request("a", 1, 2, 6)], steps=steps)) == [DECODE, PREFILL]
    retracted = request("a", 1, 2, 6, retractions=1)
    assert ran(ProfileData(requests=[retracted], steps=steps)) == [DECODE, UNKNOWN]


def test_unknown_without_steps() -> None:
    assert ran(ProfileData(requests=[request("a", 1, 2)])) == [UNKNOWN]
    late = [step("DECODE", 5, 6)]
    assert ran(ProfileData(requests=[request("a", 1, 2)], steps=late)) == [UNKNOWN]
    assert ran(ProfileData()) == []


def test_beginning_of_the_log_is_lost() -> None:
    steps = [step("DECODE", 1, 2, "a"), step("EXTEND", 2, 3, "b"), step("DECODE", 3, 4, "a")]
    assert ran(ProfileData(requests=[request("a", 1, 2, 4)], steps=steps)) == [DECODE, PREFILL]


def test_simulated_server() -> None:
    """Gaps with a prefill are longer than all others, and one request was retracted."""
    gaps = token_gaps(simulated_profile())
    assert (gaps.meanwhile == RETRACTION).sum() == 1
    longest_decode = gaps.seconds[gaps.meanwhile == DECODE].max()
    stalled = gaps.seconds[gaps.meanwhile == PREFILL]
    assert np.median(stalled) > longest_decode
