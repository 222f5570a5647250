"""The `timeout` of a whole request, in both clients."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import pytest
from support.clients import KINDS, Async, Blocking, connected, failure
from support.scripted_server import Asked, Reply, ScriptedServer, Wait, answer, endless, events, stream

from nbruntime import errors
from nbruntime.endpoint import AsyncRuntimeEndpoint, RuntimeEndpoint

SECONDS = 1.0
"""The timeout of a request, within which its server has to begin."""

PATIENCE = 8.0
"""Seconds within which a request with a timeout ends: far less than the time-outs of its parts."""

IN_TIME = 2.5
"""A timeout that is long enough for any answer."""

TOOK = f"took longer than its timeout of {SECONDS:g} s"


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, server: ScriptedServer) -> Iterator[Blocking | Async]:
    server.on("/tokenize", Reply(json={"tokens": [1, 2]}))
    with connected(request.param, server.url) as made:
        yield made


@pytest.fixture(autouse=True)
def no_timer_is_left() -> Iterator[None]:
    yield
    timers = [each for each in threading.enumerate() if isinstance(each, threading.Timer)]
    for timer in timers:
        timer.join(PATIENCE)
    assert not any(timer.is_alive() for timer in timers)


def slowly(data: bytes) -> Iterator[bytes]:
    """Send byte by byte: no wait for the next one is long."""
    for place in range(len(data)):
        time.sleep(0.02)
        yield data[place : place + 1]


BODY = json.dumps(answer("Blue!")).encode()
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY)
ENDLESS_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"
"""Of an answer that ends with its connection."""

SLOW: dict[str, Callable[[], Iterable[Any]]] = {
    "no answer": lambda: [Wait()],
    "a slow head": lambda: slowly(HEAD + BODY),
    "a slow body": lambda: chain([HEAD], slowly(BODY)),
    "a slow body of no known length": lambda: chain([ENDLESS_HEAD], slowly(BODY)),
}


@pytest.mark.parametrize("slow", SLOW)
@pytest.mark.parametrize("method", ["complete", "chat", "embed", "post"])
def test_an_answer_that_takes_too_long(
    server: ScriptedServer, client: Blocking | Async, method: str, slow: str
) -> None:
    path = "/encode" if method == "embed" else "/generate"
    server.on(path, lambda asked: Reply(raw=True, pieces=SLOW[slow]()))
    given = (path, {"text": "x", "rid": "r"}) if method == "post" else ("x",)
    begun = time.monotonic()
    error = failure(lambda: client.call(method, *given, timeout=SECONDS))
    assert time.monotonic() - begun < PATIENCE
    assert type(error) is errors.ServerTimeoutError
    assert TOOK in error.message
    assert "longer timeout=" in str(error.hint)
    assert server.wait_for("/abort_request")[0].json["rid"] == server.to(path)[0].json["rid"]
    server.on(path, Reply(json=answer("Blue!")))
    if method == "complete":
        assert client.call(method, "x", timeout=60).text == "Blue!"  # the client goes on


def test_the_time_includes_what_comes_before(server: ScriptedServer, client: Blocking | Async) -> None:
    server.on("/tokenize", Reply(raw=True, pieces=[Wait()]))
    assert TOOK in failure(lambda: client.call("chat", "Hi", timeout=SECONDS)).message
    reading = client.read("Hi", method="stream_chat", timeout=SECONDS)
    assert TOOK in str(reading.error)
    assert server.to("/generate") == []


def slow_stream(asked: Asked) -> Reply:
    begin = stream(*events(asked.json["rid"])[:2], done=False)
    return Reply(pieces=chain(begin.pieces or (), slowly(b": wait\n" * 99)), headers=begin.headers)


STREAMS: dict[str, Callable[[Asked], Reply]] = {"a stall": endless(), "slow bytes": slow_stream}


@pytest.mark.parametrize("slow", STREAMS)
@pytest.mark.parametrize("method", ["stream", "stream_chat"])
def test_a_stream_that_takes_too_long_keeps_its_text(
    server: ScriptedServer, client: Blocking | Async, method: str, slow: str
) -> None:
    server.on("/generate", STREAMS[slow])
    begun = time.monotonic()
    reading = client.read("Hi", method=method, timeout=SECONDS)
    assert time.monotonic() - begun < PATIENCE
    assert isinstance(reading.error, errors.StreamTimeoutError)
    assert isinstance(reading.error, TimeoutError)
    assert reading.error.message == f"The stream broke off after 2 tokens: the request {TOOK}"
    assert str(reading.error.hint).endswith("The text up to here is in the error's .text and .generation.")
    assert isinstance(reading.error.__cause__, errors.ServerTimeoutError)
    assert reading.text == reading.error.text == "Once upon"
    assert reading.stream is not None
    assert reading.stream.text == "Once upon"
    assert server.wait_for("/abort_request")[0].json == {"rid": reading.stream.rid}


def test_a_stream_that_does_not_begin_in_time(server: ScriptedServer, client: Blocking | Async) -> None:
    server.on("/generate", Reply(raw=True, pieces=[Wait()]))
    reading = client.read("Hi", timeout=SECONDS)
    assert isinstance(reading.error, errors.ServerTimeoutError)
    assert TOOK in str(reading.error)
    server.wait_for("/abort_request")


def test_a_batch_is_stopped_whole(server: ScriptedServer, client: Blocking | Async) -> None:
    server.on("/generate", Reply(raw=True, pieces=[Wait()]))
    failure(lambda: client.call("complete", ["a", "b"], rid="r", timeout=SECONDS))
    assert {asked.json["rid"] for asked in server.wait_for("/abort_request", 2)} == {"r_0", "r_1"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_does_not_wait_for_the_abort(server: ScriptedServer, kind: str) -> None:
    place = Wait()
    server.on("/abort_request", Reply(raw=True, pieces=[place]))
    server.on("/generate", Reply(raw=True, pieces=[Wait()]))
    with connected(kind, server.url) as client:
        begun = time.monotonic()
        failure(lambda: client.call("complete", "x", timeout=SECONDS))
        server.on("/generate", endless())
        client.read("x", timeout=SECONDS)
        assert time.monotonic() - begun < PATIENCE
        place.go.set()


def test_a_stream_that_nobody_reads_is_stopped(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", endless())
    running = endpoint.stream("x", timeout=SECONDS)
    assert next(running) == "Once"
    server.wait_for("/abort_request")
    assert running.done
    assert running.text.startswith("Once")
    with pytest.raises(errors.StreamTimeoutError, match=TOOK):
        running.result()


def test_result_and_every_reader_get_the_error(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", endless())
    running = endpoint.stream("x", timeout=SECONDS)
    found: list[Exception | None] = []

    def read() -> None:
        try:
            running.result()
        except errors.NbruntimeError as error:
            found.append(error)

    readers = [threading.Thread(target=read, daemon=True) for _ in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(PATIENCE)
    assert found == [running.error] * 3
    assert isinstance(running.error, errors.StreamTimeoutError)


@pytest.mark.asyncio
async def test_tasks_that_read_one_stream_get_the_error(server: ScriptedServer) -> None:
    server.on("/generate", endless())
    async with AsyncRuntimeEndpoint(server.url) as endpoint:
        running = await endpoint.stream("x", timeout=SECONDS)
        found = await asyncio.gather(running.result(), running.result(), return_exceptions=True)
        assert found == [running.error] * 2
        assert isinstance(running.error, errors.StreamTimeoutError)
        unread = await endpoint.stream("x", timeout=SECONDS)
        await asyncio.to_thread(server.wait_for, "/abort_request", 2)
        assert unread.done


def test_a_request_in_time_is_as_without_a_limit(server: ScriptedServer, client: Blocking | Async) -> None:
    server.on("/generate", Reply(json=answer("Blue!")))
    server.on("/encode", Reply(json={"embedding": [1.0]}))
    connections = server.connections
    for timeout in (None, 60, IN_TIME):
        assert client.call("complete", "x", timeout=timeout).text == "Blue!"
        assert client.call("chat", "x", timeout=timeout).text == "Blue!"
        assert client.call("embed", "x", timeout=timeout) == [1.0]
    time.sleep(IN_TIME)
    assert client.call("complete", "x").text == "Blue!"
    assert server.connections <= connections + 1  # the limit of an earlier request breaks no connection
    server.on("/generate", lambda asked: stream(*events(asked.json["rid"])))
    reading = client.read("x", timeout=60)
    assert (reading.text, reading.error) == ("Once upon a time", None)
    assert server.to("/abort_request") == []
    assert not any("timeout" in (asked.json or {}) for asked in server.asked)


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), True, "5"])
@pytest.mark.parametrize("method", ["complete", "stream", "chat", "stream_chat", "embed"])
def test_a_wrong_timeout_is_refused_before_anything_is_sent(
    server: ScriptedServer, client: Blocking | Async, method: str, wrong: Any
) -> None:
    asked = len(server.asked)
    error = failure(lambda: client.call(method, "x", timeout=wrong))
    assert isinstance(error, errors.ArgumentError)
    assert "timeout is" in error.message
    assert "None for no limit" in str(error.hint)
    assert len(server.asked) == asked
