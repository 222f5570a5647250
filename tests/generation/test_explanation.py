"""Explanations against step logs and times that were divided by hand."""

from __future__ import annotations

import copy
import json
import math
import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.html_checks import checked

from nbruntime.errors import ArgumentTypeError
from nbruntime.generation import Generation, Timings
from nbruntime.generation.answer_times import AnswerTimes
from nbruntime.generation.explaining import NO_CLIENT_TIME, NO_TIMES, NOT_IN_STEPS, explain
from nbruntime.generation.explanation import LABELS, Explanation, Part
from nbruntime.protocol.step_log import Step, StepLog

T = 1_795_000_000.0
"""The server's clock when it received the request."""


def extend(start: float, end: float, **tokens: int) -> Step:
    counts = tuple(tokens.values())
    return Step("EXTEND", T + start, end - start, len(tokens), sum(counts), -1, tuple(tokens), counts)


def decode(start: float, end: float, *rids: str, retracted: tuple[str, ...] = ()) -> Step:
    ones = (1,) * len(rids)
    return Step("DECODE", T + start, end - start, len(rids), len(rids), -1, rids, ones, retracted=retracted)


def moved(step: Step, seconds: float) -> Step:
    return msgspec.structs.replace(step, start=step.start + seconds)


def server_times(
    entered: float, prefilled: float, finished: float | None, *, queue: float
) -> dict[str, float]:
    times = {"queue_time": queue, "forward_entry_time": T + entered, "prefill_finished_time": T + prefilled}
    if finished is not None:
        times |= {"request_received_ts": T, "request_finished_ts": T + finished}
        times |= {"e2e_latency": finished, "response_sent_to_client_ts": T + finished}
    return times


def answer(total: float | None, times: dict[str, float], **others: Any) -> AnswerTimes:
    values = {"prompt_tokens": 10, "cached_tokens": 4, "completion_tokens": 3, **others}
    return AnswerTimes("me", total=total, server_times=times, **values)


def seconds(explained: Explanation) -> dict[str, float]:
    assert sum(part.seconds for part in explained.parts) == pytest.approx(explained.total, abs=1e-9)
    assert all(part.seconds > 0 for part in explained.parts)
    return {part.kind: part.seconds for part in explained.parts}


def near(**expected: float) -> Any:
    return pytest.approx(expected, abs=2e-6)


def part(explained: Explanation, kind: str) -> Part:
    (found,) = [each for each in explained.parts if each.kind == kind]
    return found


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 10**400, 1e308, -1, "x", True, None, []])
@pytest.mark.parametrize(
    "name", ["request_finished_ts", "queue_time", "prompt_tokens", "completion_tokens", "num_retractions"]
)
def test_nonsense_of_a_server(name: str, wrong: Any) -> None:
    meta = {
        **server_times(0.3, 0.5, 0.9, queue=0.3),
        "prompt_tokens": 10,
        "completion_tokens": 3,
        name: wrong,
    }
    made = Generation("x", [1], meta, timings=Timings(total=1.25))
    explained = made.explain()
    assert explained.total == 1.25
    seconds(explained)
    assert len(repr(explained)) + len(repr(made)) < 1000


@pytest.mark.parametrize("steps", ["[]x", 5, {"steps": []}, [{"stage": "DECODE"}], b"x"])
def test_given_steps_of_a_wrong_type(steps: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="The steps are no list of Step") as error:
        Generation("x").explain(steps)
    assert "profile.steps" in str(error.value)


# By the server's steps


def test_an_answer_alone() -> None:
    steps = [extend(0.3, 0.5, me=6), decode(0.55, 0.7, "me"), decode(0.7, 0.9, "me")]
    explained = explain(answer(1.25, server_times(0.3, 0.49, 0.9, queue=0.25)), steps)
    assert seconds(explained) == near(client=0.35, server=0.05, queue=0.25, prefill=0.2, decode=0.4)
    assert (explained.source, explained.notes) == ("step log", ())
    assert part(explained, "prefill").detail == "6 tokens (4 more from the cache)"
    assert part(explained, "decode").detail == "2 tokens alone"
    assert explained.sentence == (
        "Took 1.25 s: 400 ms to decode 2 tokens alone, 350 ms in client and network, "
        "250 ms in the queue and 200 ms to prefill 6 tokens (4 more from the cache)."
    )


def test_the_prefill_of_another_request_stalls_it() -> None:
    steps = [
        extend(0.0, 0.2, me=6),
        extend(0.2, 0.5, other=2000),
        decode(0.5, 0.6, "me"),
        extend(0.6, 1.0, other=1900),
        decode(1.0, 1.3, "me", "other"),
        decode(1.3, 1.6, "other"),  # after its end
    ]
    explained = explain(answer(1.4, server_times(0.0, 0.2, 1.29, queue=0.0)), steps)
    assert seconds(explained) == near(client=0.11, prefill=0.2, stall=0.7, decode=0.39)
    stall = part(explained, "stall")
    assert (stall.requests, stall.other_tokens) == (1, 3900)
    assert part(explained, "decode").batch_sizes == (1, 2)
    assert explained.sentence.startswith(
        "Took 1.4 s: 700 ms stalled by the prefill of another request (3,900 tokens), "
        "390 ms to decode 2 tokens in batches of 1 to 2 requests"
    )


def test_it_waits_in_the_queue_while_others_are_computed() -> None:
    steps = [
        decode(-0.4, -0.1, "early"),  # before it came
        decode(0.0, 0.4, "a", "b"),
        extend(0.4, 0.9, c=500),
        extend(1.0, 1.2, me=6),
        decode(1.2, 1.3, "me", "a"),
        decode(1.3, 1.4, "me", "a"),
    ]
    explained = explain(answer(1.4, server_times(1.0, 1.2, 1.4, queue=1.0)), steps)
    assert seconds(explained) == near(queue=1.0, prefill=0.2, decode=0.2)
    queue = part(explained, "queue")
    assert (queue.requests, queue.other_tokens) == (3, 500)
    assert "1 s in the queue while 3 other requests were computed" in explained.sentence


def test_chunks_of_its_prefill_take_turns_with_the_decoding_of_others() -> None:
    steps = [
        extend(0.0, 0.2, me=3),
        decode(0.2, 0.25, "a", "b"),
        extend(0.25, 0.5, me=3, c=40),
        decode(0.5, 0.6, "me", "a", "b"),
        decode(0.6, 0.7, "me", "a", "b"),
    ]
    explained = explain(answer(0.7, server_times(0.0, 0.5, 0.7, queue=0.0)), steps)
    assert seconds(explained) == near(prefill=0.45, turns=0.05, decode=0.2)
    assert part(explained, "prefill").detail == (
        "6 tokens (4 more from the cache) together with 40 tokens of another request"
    )
    assert part(explained, "turns").detail == "2 other requests between the chunks of the prefill"
    assert part(explained, "decode").detail == "2 tokens in a batch of 3 requests"


def test_a_retracted_request_waits_and_is_computed_again() -> None:
    steps = [
        extend(0.0, 0.1, me=6),
        decode(0.1, 0.2, "me", "a"),
        decode(0.2, 0.4, "a", retracted=("me",)),
        extend(0.4, 0.5, b=9),
        extend(0.5, 0.8, me=8),
        decode(0.8, 1.0, "me"),
    ]
    known = answer(1.0, server_times(0.0, 0.1, 1.0, queue=0.0), retractions=1)
    explained = explain(known, steps)
    assert seconds(explained) == near(prefill=0.1, decode=0.3, retraction=0.6)
    assert "600 ms lost because the KV cache was full" in explained.sentence
    # A log that does not name retractions shows them by the tokens that are computed again.
    unnamed = [decode(0.2, 0.4, "a") if step.retracted else step for step in steps]
    assert seconds(explain(known, unnamed)) == near(prefill=0.1, decode=0.3, retraction=0.6)


def test_a_request_that_is_retracted_while_its_prompt_is_computed() -> None:
    steps = [
        extend(0.0, 0.1, me=3),
        decode(0.1, 0.2, "a", retracted=("me",)),
        extend(0.2, 0.5, me=6),
        decode(0.5, 0.6, "me"),
        decode(0.6, 0.7, "me"),
    ]
    explained = explain(answer(0.7, server_times(0.0, 0.5, 0.7, queue=0.0), retractions=1), steps)
    assert seconds(explained) == near(prefill=0.4, retraction=0.1, decode=0.2)


def test_only_the_prompt_was_computed() -> None:
    known = answer(0.5, server_times(0.1, 0.3, 0.31, queue=0.1), completion_tokens=0)
    explained = explain(known, [extend(0.1, 0.3, me=6)])
    assert seconds(explained) == near(client=0.19, server=0.01, queue=0.1, prefill=0.2)


def test_the_steps_may_have_another_clock() -> None:
    steps = [extend(0.3, 0.5, me=6), decode(0.5, 0.7, "me"), decode(0.7, 0.9, "me")]
    known = answer(1.25, server_times(0.3, 0.5, 0.9, queue=0.3))
    expected = seconds(explain(known, steps))
    for offset in (-3600.0, 0.02, 1e6):
        there = [moved(step, offset) for step in steps]
        assert seconds(explain(known, there)) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("offset", [-3600.0, -0.2, 0.0, 3600.0])
def test_chunks_and_retractions_by_another_clock(offset: float) -> None:
    steps = [
        extend(0.0, 0.1, me=3),
        extend(0.1, 0.2, me=3),
        decode(0.2, 0.3, "me", "a"),
        decode(0.3, 0.4, "a", retracted=("me",)),
        extend(0.4, 0.7, me=7),
        decode(0.7, 0.9, "me"),
    ]
    known = answer(0.9, server_times(0.0, 0.2, 0.9, queue=0.0), completion_tokens=4, retractions=1)
    explained = explain(known, [moved(step, offset) for step in steps])
    assert seconds(explained) == near(prefill=0.2, decode=0.3, retraction=0.4)


def test_the_rid_was_used_before_and_after() -> None:
    once = [extend(0.0, 0.2, me=6), decode(0.2, 0.3, "me"), decode(0.3, 0.4, "me")]
    many = [moved(step, seconds) for seconds in (-5.0, 0.0, 0.4) for step in once]
    known = answer(0.5, server_times(0.0, 0.2, 0.4, queue=0.0))
    assert seconds(explain(known, many)) == near(client=0.1, prefill=0.2, decode=0.2)


def test_a_stream_that_was_left() -> None:
    steps = [
        extend(0.0, 0.2, me=6),
        decode(0.2, 0.4, "me"),
        decode(0.4, 0.6, "me"),
        decode(0.6, 0.8, "me"),  # the client has gone meanwhile
        extend(0.8, 2.0, other=900),
    ]
    # The first token came after 0.3 s, of which 0.1 s on the way; it was left 0.4 s later.
    known = answer(0.7, server_times(0.0, 0.2, None, queue=0.0), ttft=0.3, last_arrival=0.7)
    assert seconds(explain(known, steps)) == near(client=0.1, prefill=0.2, decode=0.4)
    assert seconds(explain(known)) == near(client=0.1, prefill=0.2, decode=0.4)


def test_a_request_that_was_aborted_in_the_queue() -> None:
    times = {
        "request_received_ts": T,
        "request_finished_ts": T + 0.5,
        "forward_entry_time": 0.0,
        "queue_time": 0.0,
    }
    known = answer(0.6, times, completion_tokens=0)
    explained = explain(known, [decode(-0.2, 0.3, "a"), decode(0.3, 0.8, "a", "b")])
    assert seconds(explained) == near(client=0.1, queue=0.5)
    assert part(explained, "queue").requests == 2
    assert seconds(explain(known)) == near(client=0.1, queue=0.5)


def test_a_request_that_was_aborted_in_its_prefill() -> None:
    times = server_times(0.1, 0.0, 0.4, queue=0.1) | {"prefill_finished_time": 0.0}
    known = answer(0.5, times, completion_tokens=0)
    explained = explain(known, [extend(0.1, 0.2, me=2), extend(0.2, 0.3, a=5), extend(0.3, 0.4, me=2)])
    assert seconds(explained) == near(client=0.1, queue=0.1, prefill=0.2, stall=0.1)
    assert (explained.source, part(explained, "prefill").tokens) == ("step log", 4)
    assert seconds(explain(known)) == near(client=0.1, queue=0.1, prefill=0.3)


@pytest.mark.parametrize(
    "steps",
    [
        [decode(0.5, 0.7, "me"), decode(0.7, 0.9, "me")],  # the log has lost its beginning
        [extend(0.3, 0.5, me=3), decode(0.5, 0.7, "me"), decode(0.7, 0.9, "me")],
        [extend(0.3, 0.5, me=6), decode(0.5, 0.7, "me")],  # it was cut
        [extend(0.3, 0.5, other=6)],
        [Step("EXTEND", T + 0.3, 0.2, 1, 6)],  # of a trace, without rids
    ],
)
def test_steps_that_do_not_hold_all_of_it(steps: list[Step]) -> None:
    explained = explain(answer(1.0, server_times(0.3, 0.5, 0.9, queue=0.3)), steps)
    assert seconds(explained) == near(client=0.1, queue=0.3, prefill=0.2, decode=0.4)
    assert (explained.source, explained.notes) == ("server times", (NOT_IN_STEPS,))


# By times


def test_a_server_without_times() -> None:
    whole = explain(answer(1.0, {"e2e_latency": 0.8}))
    assert seconds(whole) == near(client=0.2, all=0.8)
    streamed = explain(answer(1.0, {"e2e_latency": 0.8}, ttft=0.3, last_arrival=1.0))
    assert seconds(streamed) == near(client=0.2, first=0.1, decode=0.7)
    assert (streamed.source, streamed.notes) == ("client", (NO_TIMES,))
    assert "enable_metrics=True" in NO_TIMES
    bare = explain(answer(1.0, {}, ttft=0.3, last_arrival=1.0))
    assert seconds(bare) == near(first=0.3, decode=0.7)
    assert "Client and network are in the part that cannot be divided." in bare.notes


def test_without_times_of_the_client() -> None:
    explained = explain(answer(None, server_times(0.3, 0.5, 0.9, queue=0.3)))
    assert seconds(explained) == near(queue=0.3, prefill=0.2, decode=0.4)
    assert NO_CLIENT_TIME in explained.notes
    assert explain(AnswerTimes(ttft=0.3)).notes == ("It is still running.",)
    nothing = explain(AnswerTimes())
    assert (nothing.parts, nothing.total, nothing.sentence) == ((), 0.0, "Nothing is known of its time.")
    assert "nothing known" in checked(nothing._repr_mimebundle_())


def test_the_waits_of_sglang_after_a_retraction() -> None:
    # SGLang adds them to its time in the queue.
    explained = explain(answer(2.0, server_times(0.3, 0.5, 1.9, queue=0.8), retractions=1))
    assert seconds(explained) == near(client=0.1, queue=0.3, prefill=0.2, retraction=0.5, decode=0.9)
    unknown = explain(answer(2.0, server_times(0.3, 0.5, 1.9, queue=0.3), retractions=2))
    assert seconds(unknown) == near(client=0.1, queue=0.3, prefill=0.2, decode=1.4)
    assert unknown.notes == ("It was put back into the queue 2 times, which is not told from decoding here.",)


def test_the_rest_of_its_batch() -> None:
    times = server_times(0.0, 0.2, 0.5, queue=0.0) | {"response_sent_to_client_ts": T + 0.9}
    assert seconds(explain(answer(1.0, times, siblings=3))) == near(
        client=0.1, prefill=0.2, decode=0.3, siblings=0.4
    )
    streamed = answer(1.0, times, siblings=3, ttft=0.3, last_arrival=0.6)
    assert seconds(explain(streamed)) == near(client=0.1, prefill=0.2, decode=0.3, siblings=0.4)
    hidden = explain(answer(1.0, server_times(0.0, 0.2, 0.5, queue=0.0), siblings=3))
    assert seconds(hidden) == near(client=0.5, prefill=0.2, decode=0.3)
    assert hidden.notes == ("The wait for the 3 other answers of its batch counts as client and network.",)


def test_a_client_that_measured_less_than_the_server() -> None:
    explained = explain(answer(0.6, server_times(0.3, 0.5, 0.9, queue=0.3)))
    assert seconds(explained) == near(queue=0.3, prefill=0.2, decode=0.1)


# The record


FULL = Explanation(
    tuple(
        Part(kind, 0.1, tokens=5, cached_tokens=2, requests=2, other_tokens=300, batch_sizes=(1, 3))
        for kind in LABELS
    ),
    0.1 * len(LABELS),
    "step log",
    ("A <note> & more.",),
)


def test_an_explanation_shows_itself() -> None:
    text = checked(FULL._repr_mimebundle_()).replace("\xa0", " ")
    assert text.startswith("Explanation 1.1 s · by the server's steps")
    for each in FULL.parts:
        assert each.label in text
        assert each.detail in text
    assert "A <note> & more." in text
    html = FULL._repr_mimebundle_()["text/html"]
    assert html.count("background-color:#") == len(LABELS)
    assert repr(FULL) == FULL._repr_mimebundle_()["text/plain"]
    assert len(repr(FULL).splitlines()[2].strip()) == 40
    assert str(FULL) == FULL.sentence


def test_the_sentence_names_what_matters() -> None:
    parts = (
        Part("client", 0.04),
        Part("decode", 0.945, tokens=9),
        Part("stall", 0.015, requests=2, other_tokens=70),
    )
    assert Explanation(parts, 1.0, "step log").sentence == (
        "Took 1 s: 945 ms to decode 9 tokens and "
        "15 ms stalled by the prefill of 2 other requests (70 tokens)."
    )


def test_an_explanation_is_a_record() -> None:
    for copied in (pickle.loads(pickle.dumps(FULL)), copy.deepcopy(FULL)):
        assert copied == FULL
    written = json.loads(json.dumps(FULL.to_dict()))
    assert written["total"] == FULL.total
    assert [each["kind"] for each in written["parts"]] == list(LABELS)
    assert written["parts"][5] == {
        **{"kind": "stall", "label": "stall", "seconds": 0.1, "share": pytest.approx(1 / 11)},
        **{"tokens": 5, "cached_tokens": 2, "requests": 2, "other_tokens": 300, "batch_sizes": [1, 3]},
    }
    assert FULL.seconds("queue") == 0.1


# Anything that servers may say

lengths = st.floats(0, 3, allow_nan=False)
rids = st.lists(st.sampled_from(["me", "a", "b"]), unique=True, max_size=3).map(tuple)


@st.composite
def step_logs(draw: st.DrawFn) -> list[Step]:
    steps = []
    now = T + draw(st.floats(-1, 1))
    for number in range(draw(st.integers(0, 15))):
        now += draw(st.sampled_from([0.0, 0.01, 0.3]))
        took, members = draw(st.floats(0, 0.5)), draw(rids)
        stage = draw(st.sampled_from(["EXTEND", "DECODE", "VERIFY"]))
        counts = tuple(draw(st.integers(0, 20)) if stage == "EXTEND" else 1 for _ in members)
        gone = draw(rids) if stage == "DECODE" else ()
        steps.append(
            Step(stage, now, took, len(members), sum(counts), number, members, counts, None, None, gone)
        )
        now += took
    return steps


@given(
    steps=step_logs(),
    total=st.none() | st.floats(0, 10),
    ttft=st.none() | lengths,
    tail=lengths,
    times=st.fixed_dictionaries(
        {},
        optional={
            name: st.floats(-1, 6).map(lambda value: T + value) | st.just(0.0)
            for name in (
                "request_received_ts",
                "forward_entry_time",
                "prefill_finished_time",
                "request_finished_ts",
                "response_sent_to_client_ts",
            )
        }
        | {"queue_time": lengths, "e2e_latency": lengths},
    ),
    counts=st.tuples(*[st.integers(0, 12)] * 3),
    retractions=st.integers(0, 2),
    siblings=st.integers(0, 2),
)
def test_parts_are_positive_and_add_up_whatever_was_measured(
    steps: list[Step],
    total: float | None,
    ttft: float | None,
    tail: float,
    times: dict[str, float],
    counts: tuple[int, int, int],
    retractions: int,
    siblings: int,
) -> None:
    known = AnswerTimes(
        "me",
        total=total,
        ttft=None if ttft is None or total is None else min(ttft, total),
        last_arrival=None if ttft is None or total is None else min(ttft + tail, total),
        server_times=times,
        prompt_tokens=counts[0],
        cached_tokens=counts[1],
        completion_tokens=counts[2],
        retractions=retractions,
        siblings=siblings,
    )
    explained = explain(known, steps)
    assert math.isfinite(explained.total)
    assert explained.total == (total if total is not None else times.get("e2e_latency") or 0.0)
    assert sum(each.seconds for each in explained.parts) == pytest.approx(explained.total, abs=1e-9)
    assert all(each.seconds >= 0 for each in explained.parts)
    assert len({each.kind for each in explained.parts}) == len(explained.parts)
    checked(explained._repr_mimebundle_())
    json.dumps(explained.to_dict())


def test_odd_figures_of_a_server_explain_nothing() -> None:
    odd = {
        "forward_entry_time": "x",
        "queue_time": math.inf,
        "prefill_finished_time": None,
        "e2e_latency": math.nan,
    }
    made = Generation("a", [1], odd, timings=Timings(total=0.5))
    assert seconds(made.explain()) == near(all=0.5)


def test_steps_may_be_given_as_the_log() -> None:
    meta = server_times(0.3, 0.5, 0.9, queue=0.3) | {"id": "me", "prompt_tokens": 6, "completion_tokens": 3}
    made = Generation("abc", [1, 2, 3], meta, timings=Timings(total=1.0))
    steps = [extend(0.3, 0.5, me=6), decode(0.5, 0.7, "me"), decode(0.7, 0.9, "me")]
    assert made.explain(StepLog(T, 0, steps)) == made.explain(steps)
    assert made.explain(steps).source == "step log"
