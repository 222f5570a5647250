"""What observers of a client are told of its requests, in both clients."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.clients import KINDS, Async, Blocking, connected
from support.scripted_server import (
    CUT,
    WORDS,
    Asked,
    Reply,
    ScriptedServer,
    Wait,
    answer,
    cumulative,
    endless,
    stream,
)

from nbruntime import errors
from nbruntime.endpoint import AsyncRuntimeEndpoint, RuntimeEndpoint
from nbruntime.endpoint.observers import ObservedRequest, Observers
from nbruntime.generation.outcome import Outcome


class Notes:
    """An observer that remembers."""

    def __init__(self, observers: Observers) -> None:
        self.sent: list[ObservedRequest] = []
        self.ended: list[ObservedRequest] = []
        self.end = threading.Event()
        observers.add(self)

    def note_sent(self, request: ObservedRequest) -> None:
        self.sent.append(request)

    def note_ended(self, request: ObservedRequest) -> None:
        self.ended.append(request)
        self.end.set()

    def outcomes(self) -> list[Outcome]:
        assert self.sent == self.ended
        return [outcome for request in self.ended for outcome in request.outcomes()]

    def states(self) -> list[tuple[str, str, str]]:
        return [(each.rid, each.status, each.error) for each in self.outcomes()]


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, server: ScriptedServer) -> Iterator[Blocking | Async]:
    with connected(request.param, server.url) as driver:
        yield driver


def reply(asked: Asked) -> Reply:
    """Answer every prompt and sample with `WORDS`, streamed if it is asked for."""
    body = asked.json
    prompts = body["text"] if isinstance(body["text"], list) else [body["text"]]
    samples = (body.get("sampling_params") or {}).get("n") or 1
    rids = body["rid"] if isinstance(body["rid"], list) else [body["rid"]]
    names = [rid if samples == 1 else f"{rid}-{n}" for rid in rids for n in range(samples)]
    if not body.get("stream"):
        answers = [answer("".join(WORDS), list(range(4)), id=name) for name in names]
        return Reply(json=answers if len(prompts) * samples > 1 or len(prompts) > 1 else answers[0])
    events = [cumulative(WORDS, name) for name in names]
    return stream(*({**each[n], "index": i} for n in range(4) for i, each in enumerate(events)))


def test_whole_answers(client: Blocking | Async, server: ScriptedServer) -> None:
    server.on("/generate", reply)
    notes = Notes(client.client.observers)
    before = time.perf_counter()
    client.call("complete", "x", rid="one")
    client.call("complete", ["x", "y"], rid="two")
    client.call("complete", "x", n=2, rid="three")
    client.call("post", "/generate", {"text": "x", "rid": "four"})
    server.on("/tokenize", Reply(json={"tokens": [1], "count": 1}))
    server.on("/generate", Reply(json=answer("Hi", [7], id="five", cached_tokens=3)))
    client.call("chat", "Hello", rid="five")
    after = time.perf_counter()
    outcomes = notes.outcomes()
    names = ["one", "two_0", "two_1", "three-0", "three-1", "four", "five"]
    assert [(each.rid, each.status, each.error) for each in outcomes] == [
        (name, "finished", "") for name in names
    ]
    assert [each.index for each in outcomes] == [0, 0, 1, 0, 1, 0, 0]
    assert outcomes[-1].meta_info["cached_tokens"] == 3
    for each in outcomes:
        assert each.arrivals == ()
        assert each.ended is not None
        assert before <= each.started <= each.ended <= after
    client.client.observers.remove(notes)
    client.call("get_server_info")
    client.call("complete", "x")
    assert len(notes.sent) == 5


def test_embeddings(client: Blocking | Async, server: ScriptedServer) -> None:
    def embed(asked: Asked) -> Reply:
        rids = asked.json["rid"]
        made = [{"embedding": [0.5], "meta_info": {"id": rid, "prompt_tokens": 2}} for rid in rids]
        return Reply(json=made if isinstance(rids, list) else made[0])

    server.on("/encode", embed)
    notes = Notes(client.client.observers)
    client.call("embed", ["x", "y"])
    assert [request.route for request in notes.ended] == ["/encode"]
    assert [(each.status, each.meta_info["prompt_tokens"]) for each in notes.outcomes()] == [
        ("finished", 2)
    ] * 2


def test_streams(client: Blocking | Async, server: ScriptedServer) -> None:
    server.on("/generate", reply)
    notes = Notes(client.client.observers)
    client.read("x", rid="one")
    (one,) = notes.outcomes()
    assert (one.rid, one.status, sum(count for _, count in one.arrivals)) == ("one", "finished", 4)
    assert 0 < one.arrivals[0][0] <= one.arrivals[-1][0] <= (one.ended or 0) - one.started
    client.read("x", n=2, rid="two")  # an error of the reading: it has several answers
    assert notes.states()[1:] == [("two", "stopped", "")] * 2


@pytest.mark.parametrize(
    ("answered", "error"),
    [
        (Reply(json={"error": {"message": "too long"}}, status=400), "BadRequestError"),
        (stream(*cumulative(WORDS, "r")[:2], {"error": {"message": "broken"}}), "StreamError"),
        (stream(*cumulative(WORDS, "r")[:2], CUT), "StreamError"),
        (stream(answer("Once", [1], id="r", finish_reason={"type": "abort", "status_code": 500})), ""),
    ],
    ids=["refused", "error event", "cut", "aborted by an error"],
)
def test_failures(client: Blocking | Async, server: ScriptedServer, answered: Reply, error: str) -> None:
    server.on("/generate", answered)
    notes = Notes(client.client.observers)
    reading = client.read("x", rid="r")
    assert isinstance(reading.error, errors.NbruntimeError)
    ((rid, status, said),) = notes.states()
    assert (rid, status) == ("r", "failed")
    assert error in said


def test_no_server(server: ScriptedServer) -> None:
    with RuntimeEndpoint(server.url) as endpoint:
        notes = Notes(endpoint.observers)
        endpoint._change(base_url="http://127.0.0.1:1")
        for call in (endpoint.complete, endpoint.stream):
            with pytest.raises(errors.ServerConnectionError):
                call("x", rid="r")
    assert [(rid, status) for rid, status, _ in notes.states()] == [("r", "failed")] * 2


def test_time_limits(client: Blocking | Async, server: ScriptedServer) -> None:
    server.on("/generate", endless())
    notes = Notes(client.client.observers)
    assert client.read("x", rid="r", timeout=2.5).error is not None  # it has to begin before
    server.on("/generate", lambda _: Reply(pieces=[Wait()]))
    with pytest.raises(errors.ServerTimeoutError):
        client.call("complete", "x", rid="s", timeout=0.2)
    (r, s) = notes.states()
    assert r[:2] == ("r", "failed")
    assert r[2].startswith("StreamTimeoutError")
    assert s[:2] == ("s", "failed")
    assert s[2].startswith("ServerTimeoutError")


def _abort(reading: Any, notes: Notes) -> Any:
    return reading.abort()


def _close(reading: Any, notes: Notes) -> Any:
    return reading.close()


@pytest.mark.parametrize("leave", [_abort, _close])
async def test_stopped_by_the_client(
    server: ScriptedServer, leave: Callable[[Any, Notes], Any], endpoint: RuntimeEndpoint
) -> None:
    wait = Wait()

    def aborted(_: Asked) -> Reply:
        wait.go.set()
        return Reply(body=b"")

    def generate(asked: Asked) -> Reply:
        events = cumulative(WORDS, asked.json["rid"])
        last = {**events[2]["meta_info"], "finish_reason": {"type": "abort", "message": "Abort"}}
        return stream(*events[:2], wait, {**events[2], "meta_info": last})

    server.on("/abort_request", aborted)
    server.on("/generate", generate)
    notes = Notes(endpoint.observers)
    running = endpoint.stream("x", rid="blocking")
    next(running)
    leave(running, notes)
    list(running)
    async with AsyncRuntimeEndpoint.beside(endpoint) as beside:
        wait.go.clear()
        reading = await beside.stream("x", rid="async")
        await anext(reading)
        await leave(reading, notes)
        async for _ in reading:
            pass
    assert notes.states() == [("blocking", "stopped", ""), ("async", "stopped", "")]


def test_a_collected_stream_is_stopped(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", endless())
    notes = Notes(endpoint.observers)
    running = endpoint.stream("x", rid="r")
    next(running)
    (seen,) = notes.sent[0].outcomes()
    assert (seen.status, seen.ended, len(seen.arrivals)) == ("running", None, 1)
    del running
    gc.collect()
    assert notes.end.wait(10), "the observer keeps the stream"
    assert notes.states() == [("r", "stopped", "")]


async def test_a_collected_and_a_cancelled_async_stream(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    server.on("/generate", endless())
    notes = Notes(endpoint.observers)
    async with AsyncRuntimeEndpoint.beside(endpoint) as client:
        running = await client.stream("x", rid="collected")
        await anext(running)
        del running
        gc.collect()
        assert notes.end.wait(10)
        at_text = asyncio.Event()

        async def read() -> None:
            async for _ in await client.stream("x", rid="cancelled"):
                at_text.set()

        task = asyncio.create_task(read())
        await at_text.wait()
        task.cancel()
        await asyncio.wait([task])
        waiting = asyncio.create_task(client.complete("x", rid="waiting"))
        server.on("/generate", lambda _: Reply(pieces=[Wait()]))
        await asyncio.to_thread(server.wait_for, "/generate", 3)
        waiting.cancel()
        await asyncio.wait([waiting])
    states = notes.states()
    assert states == [("collected", "stopped", ""), ("cancelled", "stopped", ""), ("waiting", "stopped", "")]


def test_an_interrupt(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    def interrupt(_: Any) -> Any:
        raise KeyboardInterrupt

    notes = Notes(endpoint.observers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endpoint._transport, "send", interrupt)
        for call in (endpoint.complete, endpoint.stream):
            with pytest.raises(KeyboardInterrupt):
                call("x", rid="r")
    assert notes.states() == [("r", "stopped", "")] * 2


def test_copies_have_observers_of_their_own(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", reply)
    notes = Notes(endpoint.observers)
    running = endpoint.stream("x")
    assert pickle.loads(pickle.dumps(running)).error is not None
    running.result()
    with pickle.loads(pickle.dumps(endpoint)) as copied:
        copied.complete("x")
    assert len(notes.ended) == len(notes.sent) == 1
