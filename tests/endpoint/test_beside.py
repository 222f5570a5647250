"""`AsyncRuntimeEndpoint.beside`: the asynchronous client with the settings of a blocking one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

import pytest
from support.clients import collect, stream_text
from support.scripted_server import CUT, WORDS, Asked, Reply, ScriptedServer, Wait, endless, events, stream

from nbruntime import errors
from nbruntime.endpoint import AsyncRuntimeEndpoint, RuntimeEndpoint


async def test_stream_text(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", stream(*events()))
    assert await collect(endpoint) == WORDS
    async with AsyncRuntimeEndpoint.beside(endpoint) as client:
        assert await client.get_server_info() == endpoint.get_server_info()
    assert server.to("/abort_request") == []


async def test_leaving_a_text_stream_stops_the_generation(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    server.on("/generate", endless(Wait()))
    texts = stream_text(endpoint, "x", rid="async")
    async with contextlib.aclosing(texts):
        async for text in texts:
            assert text == "Once"
            break
    assert server.wait_for("/abort_request")[0].json == {"rid": "async"}
    assert server.gone.wait(10)


async def test_cancelling_a_task_stops_the_generation(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    server.on("/generate", endless(Wait()))
    seen: list[str] = []
    two = asyncio.Event()

    async def read() -> None:
        async for text in stream_text(endpoint, "x", rid="cancelled"):
            seen.append(text)
            if len(seen) == 2:
                two.set()

    task = asyncio.create_task(read())
    await asyncio.wait_for(two.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["Once", " upon"]
    assert server.wait_for("/abort_request")[0].json == {"rid": "cancelled"}


async def test_cancelling_before_the_answer_begins(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    arrived, go = threading.Event(), threading.Event()

    def late(asked: Asked) -> Reply:
        arrived.set()
        go.wait(10)
        return stream(*events())

    server.on("/generate", late)
    task = asyncio.create_task(collect(endpoint))
    await asyncio.to_thread(arrived.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    assert server.wait_for("/abort_request")[0].json == {"rid": server.to("/generate")[0].json["rid"]}


async def test_async_errors(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", Reply(json={"error": {"message": "because"}}, status=400))
    with pytest.raises(errors.BadRequestError, match="because"):
        await collect(endpoint)
    server.on("/generate", stream(*events()[:2], CUT))
    with pytest.raises(errors.StreamError, match="broke off after 2 tokens") as caught:
        await collect(endpoint)
    assert caught.value.text == "Once upon"
    server.on("/generate", Reply(json={}))
    with pytest.raises(errors.ProtocolError):
        await collect(endpoint)
    server.on("/generate", Reply(body=b"", status=307, headers={"location": "http://elsewhere"}))
    with pytest.raises(errors.ServerStatusError, match="elsewhere"):
        await collect(endpoint)
    endpoint.settings.read_timeout = 2.5  # in which the answer has to begin
    server.on("/generate", endless(Wait()))
    with pytest.raises(errors.StreamError, match="in time"):
        await collect(endpoint)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint.settings.base_url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(errors.ServerConnectionError):
            await collect(endpoint)


async def test_async_batches_and_results(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    made = [{**event, "index": index} for event in events() for index in (1, 0)]
    server.on("/generate", stream(*made))
    async with AsyncRuntimeEndpoint.beside(endpoint) as client:
        for _ in range(3):
            async with await client.stream(["x", "y"]) as running:
                assert (await anext(running.indexed())) == (1, "Once")
                result = await running.result()
            assert isinstance(result, list)
            assert [generation.text for generation in result] == ["Once upon a time"] * 2
    assert server.connections == 2  # one of the blocking client, one of this one
