"""Explanations of real requests, disturbed by other real requests."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from support.embedded_server import LONG, PROMPT, STORY, EmbeddedServer

from nbruntime import AsyncRuntimeEndpoint, Generation, RuntimeEndpoint
from nbruntime.generation.explanation import Explanation

pytestmark = pytest.mark.model

TOKENS: dict[str, Any] = {"ignore_eos": True, "temperature": 0}


@pytest.fixture(autouse=True)
def quiet(server: EmbeddedServer) -> None:
    server.wait_idle()
    assert server.post("/flush_cache").status_code == 200


def exact(answer: Any, *kinds: str) -> Explanation:
    """Explain an answer by the server's steps; the parts must add up and hold all of its tokens."""
    assert isinstance(answer, Generation)
    explained: Explanation = answer.explain()
    assert (explained.source, explained.notes) == ("step log", ())
    assert explained.total == answer.timings.total
    assert sum(part.seconds for part in explained.parts) == pytest.approx(explained.total, abs=1e-9)
    found = {part.kind: part for part in explained.parts}
    assert set(kinds) <= set(found)
    assert found["prefill"].tokens == answer.prompt_tokens - answer.cached_tokens
    if "decode" in found:
        assert found["decode"].tokens >= answer.completion_tokens - 1
    assert len(json.dumps(explained.to_dict())) > 100
    return explained


def test_an_answer_alone(endpoint: RuntimeEndpoint) -> None:
    explained = exact(endpoint.complete(PROMPT, max_new_tokens=8, **TOKENS), "client", "prefill", "decode")
    assert explained.seconds("stall") == explained.seconds("turns") == explained.seconds("retraction") == 0
    assert "to decode 7 tokens alone" in explained.sentence
    again = exact(endpoint.complete(PROMPT, max_new_tokens=1, **TOKENS), "prefill")
    assert "1 token (4 more from the cache)" in repr([part.detail for part in again.parts])


def test_the_long_prompt_of_another_request_stalls_a_stream(endpoint: RuntimeEndpoint) -> None:
    with endpoint.stream(PROMPT, max_new_tokens=400, **TOKENS) as stream:
        next(stream)
        disturber = endpoint.complete(LONG[:1200], max_new_tokens=1)
    disturbed = stream.result()
    assert isinstance(disturber, Generation)
    explained = exact(disturbed, "stall", "decode")
    (stall,) = [part for part in explained.parts if part.kind == "stall"]
    assert (stall.requests, stall.other_tokens) == (1, disturber.prompt_tokens)
    assert stall.seconds > 0.1 * explained.total
    assert (
        f"stalled by the prefill of another request ({disturber.prompt_tokens} tokens)" in explained.sentence
    )
    # The other one took turns with the stream.
    turns = exact(disturber, "turns", "prefill")
    assert 0 < turns.seconds("turns") < turns.total


def test_requests_that_wait_behind_others(endpoint: RuntimeEndpoint) -> None:
    # Requests of one batch with a common prefix wait until the first one has computed it.
    first, *others = endpoint.complete(
        [f"{LONG} {number}" for number in range(3)], max_new_tokens=2, **TOKENS
    )
    exact(first)
    for answer in others:
        explained = exact(answer, "queue")
        (queue,) = [part for part in explained.parts if part.kind == "queue"]
        assert queue.requests >= 1
        assert queue.seconds > 0.3 * explained.total
        assert "in the queue while" in explained.sentence


def test_a_batch_waits_for_its_longest_answer(endpoint: RuntimeEndpoint) -> None:
    params = [{"max_new_tokens": 2, **TOKENS}, {"max_new_tokens": 16, **TOKENS}]
    short, long = endpoint.complete([PROMPT, STORY], sampling_params=params)
    waited = exact(short, "siblings")
    assert waited.seconds("siblings") > 0.5 * waited.total
    assert exact(long).seconds("siblings") < 0.2 * waited.seconds("siblings")
    samples = endpoint.complete(PROMPT, n=2, max_new_tokens=4, ignore_eos=True)
    assert isinstance(samples, list)
    for answer in samples:
        assert next(part for part in exact(answer).parts if part.kind == "decode").batch_sizes == (2, 2)


def test_only_the_prompt(endpoint: RuntimeEndpoint) -> None:
    explained = exact(endpoint.complete(STORY, max_new_tokens=0), "prefill")
    assert explained.seconds("decode") == 0


def test_a_stream_that_is_left(endpoint: RuntimeEndpoint) -> None:
    with endpoint.stream(PROMPT, max_new_tokens=90, **TOKENS) as stream:
        for _ in range(5):
            next(stream)
    explained = exact(stream.result(), "prefill", "decode")
    assert explained.seconds("decode") > 0.3 * explained.total


def test_the_client_of_an_event_loop(server: EmbeddedServer) -> None:
    async def ask() -> tuple[Any, ...]:
        async with AsyncRuntimeEndpoint(server.url) as endpoint:
            answers = await asyncio.gather(
                endpoint.complete(PROMPT, max_new_tokens=10, **TOKENS),
                endpoint.chat("Name a colour.", max_new_tokens=10, **TOKENS),
            )
            async with await endpoint.stream(STORY, max_new_tokens=5, **TOKENS) as stream:
                answers.append(await stream.result())
            for answer in answers:
                exact(answer, "prefill", "decode")  # also inside of the loop
            return tuple(answers)

    for answer in asyncio.run(ask()):
        exact(answer)


def test_a_log_that_has_lost_an_answer(endpoint: RuntimeEndpoint) -> None:
    answer = endpoint.complete(PROMPT, max_new_tokens=4, **TOKENS)
    assert isinstance(answer, Generation)
    steps = json.loads(endpoint.get("/step_log"))["steps"]
    assert steps[-1]["rids"] == [answer.rid]
    assert answer.explain([]).source == "server times"
