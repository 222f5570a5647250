"""Connections of `AsyncRuntimeEndpoint`: opened when needed, kept, and a thousand at once."""

from __future__ import annotations

import asyncio
import pickle
import resource
import time
from typing import Any

import pytest
from support.scripted_server import (
    CUT,
    WORDS,
    Asked,
    Reply,
    ScriptedServer,
    answer,
    cumulative,
    endless,
    stream,
)

from nbruntime import AsyncRuntimeEndpoint, errors


async def test_the_constructor_sends_nothing(server: ScriptedServer) -> None:
    endpoint = AsyncRuntimeEndpoint(server.url)
    assert "unknown model, not asked yet" in repr(endpoint)
    with pytest.raises(errors.ServerConnectionError, match=r"endpoint\.connect\(\)"):
        _ = endpoint.model_info
    assert server.asked == []
    assert await endpoint.get_model_name() == "scripted-model"
    assert await endpoint.connect() is endpoint
    assert len(server.asked) == 1
    assert "scripted-model, answered just now" in repr(endpoint)
    await endpoint.close()
    assert pickle.loads(pickle.dumps(endpoint)).model_info == endpoint.model_info


async def test_a_thousand_streams_at_once(server: ScriptedServer) -> None:
    # Both ends of a thousand connections are in this process.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    count = 1000
    server.on("/generate", lambda asked: stream(*cumulative(WORDS, asked.json["rid"])))

    async def read(number: int) -> str:
        async with await endpoint.stream(f"{number}") as running:
            return "".join([text async for text in running])

    async with AsyncRuntimeEndpoint(server.url, connect_timeout=60) as endpoint:
        before = time.perf_counter()
        texts = await asyncio.gather(*(read(number) for number in range(count)))
        took = time.perf_counter() - before
    print(f"{count} streams in {took:.2f} s, {server.connections} connections")
    assert texts == ["Once upon a time"] * count
    assert server.to("/abort_request") == []
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_thousand_open_streams_are_aborted_on_close(server: ScriptedServer) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    count = 1000
    server.on("/generate", endless())
    async with AsyncRuntimeEndpoint(server.url, connect_timeout=60) as endpoint:
        streams = await asyncio.gather(*(endpoint.stream("x", rid=f"{n}") for n in range(count)))
        assert [await anext(each) for each in streams] == ["Once"] * count
        since = time.perf_counter()
    print(f"{count} open streams left in {time.perf_counter() - since:.2f} s")
    assert sorted(int(asked.json["rid"]) for asked in server.to("/abort_request")) == list(range(count))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_connections_are_kept(server: ScriptedServer) -> None:
    server.on("/generate", Reply(json=answer("hi", [1])))
    async with AsyncRuntimeEndpoint(server.url) as endpoint:
        for _ in range(5):
            await endpoint.complete("x")
        server.on("/generate", stream(*cumulative(WORDS)))
        for _ in range(5):
            async with await endpoint.stream("x") as running:
                assert [text async for text in running] == WORDS
    assert server.connections == 1


async def test_only_reads_are_retried_on_a_kept_connection_that_was_closed(server: ScriptedServer) -> None:
    asked: list[Any] = []

    def drop_first(one: Asked) -> Reply:
        asked.append(one)
        return Reply(raw=True, pieces=[CUT]) if len(asked) == 1 else Reply(json={"tokens": [1]})

    server.on("/tokenize", drop_first)
    async with AsyncRuntimeEndpoint(server.url) as endpoint:
        assert await endpoint.tokenize("x") == [1]  # nothing changes by asking twice
        server.on("/generate", lambda one: (asked.append(one), Reply(raw=True, pieces=[CUT]))[1])
        asked.clear()
        with pytest.raises(errors.ServerConnectionError) as caught:
            await endpoint.complete("x", rid="once")
        assert caught.value.sent
        assert len(asked) == 1  # a generation is never sent twice
        assert server.wait_for("/abort_request")[0].json == {"rid": "once"}  # it may be running
