"""Explanations of the requests of a profile, against times that were divided by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.hand_profiles import START, decode, extend, profile, request, with_server_times

from nbruntime.errors import ArgumentTypeError, ArgumentValueError
from nbruntime.profiling.profile import Profile
from nbruntime.profiling.records import RequestRecord

OFFSET = 7.0
"""Seconds that the server's clock is ahead."""


def served(rid: str, sent: float, *tokens_at: float, **fields: Any) -> RequestRecord:
    """A request of which the server knows all times; it has the last one when the server has finished."""
    made = request(rid, sent, *tokens_at, **fields)
    times = {**made.server_times, "request_finished_ts": made.ended}
    return replace(made, server_times={name: at + OFFSET for name, at in times.items()})


def made() -> Profile:
    return profile(
        served("a", 0, 1, 4, **with_server_times(0.25, 0.25, 1)),
        served("b", 1, 3, **with_server_times(1, 1, 3)),
        served("same", 5, 6, **with_server_times(5, 5, 6)),
        served("same", 7, 8, **with_server_times(7, 7, 8)),
        steps=[
            extend(0.25, 1, a=10),
            extend(1, 3, b=10),
            decode(3, 4, "a"),
            extend(5, 6, same=10),
            extend(7, 8, same=10),
        ],
        clock_offset=OFFSET,
    )


def test_a_request_is_explained_by_the_steps_of_the_profile() -> None:
    explained = made().explain("a")
    assert (explained.source, explained.total, explained.notes) == ("step log", 4.0, ())
    found = {part.kind: part.seconds for part in explained.parts}
    assert found == pytest.approx({"client": 0.25, "prefill": 0.75, "stall": 2.0, "decode": 1.0}, abs=1e-5)
    assert "2 s stalled by the prefill of another request (10 tokens)" in explained.sentence
    loaded = Profile.from_dict(made().to_dict())
    assert loaded.explain(loaded.requests[0]) == explained


def test_the_name_of_several_requests() -> None:
    profiled = made()
    with pytest.raises(ArgumentValueError, match="2 requests of the name 'same'"):
        profiled.explain("same")
    for again in profiled.requests[2:]:
        explained = profiled.explain(again)
        assert explained.seconds("prefill") == pytest.approx(1, abs=1e-5)
        assert explained.source == "step log"


def test_what_is_no_request_of_the_profile() -> None:
    with pytest.raises(ArgumentValueError, match="no request 'sane'") as error:
        made().explain("sane")
    assert "Did you mean 'same'?" in str(error.value)
    with pytest.raises(ArgumentTypeError, match="The request is a int"):
        made().explain(0)  # type: ignore[arg-type]


def test_profiles_without_steps_or_server_times() -> None:
    profiled = made()
    profiled.steps = []
    explained = profiled.explain("a")
    assert explained.source == "server times"
    (note,) = explained.notes
    assert note.startswith("The profile holds no steps with the names of their requests")
    bare = profile(request("a", 0, 1, 2), request("b", 0, 3, status="running"))
    assert bare.explain("a").source == "client"
    assert bare.explain("b").notes == ("It is still running.",)


def test_the_other_answers_of_a_request() -> None:
    both = profile(request("a", 0, 1, ended=4), request("b", 0, 1, 4), request("c", 1, 2))
    times = {"request_received_ts": START, "forward_entry_time": START, "prefill_finished_time": START + 1}
    both.requests[0] = replace(
        both.requests[0], server_times={**times, "request_finished_ts": START + 1}, completion_tokens=1
    )
    assert both.explain("a").seconds("siblings") == pytest.approx(3, abs=1e-5)
