"""Leaving a stream of `AsyncRuntimeEndpoint` in any way closes its connection and aborts its request."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import threading
import time
import weakref
from asyncio import sslproto
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from support.certificates import make_certificate
from support.clients import SOON, wait_until_left
from support.scripted_server import (
    CUT,
    WORDS,
    Asked,
    Reply,
    ScriptedServer,
    Wait,
    cumulative,
    endless,
    stream,
)

from nbruntime import AsyncRuntimeEndpoint
from nbruntime.generation import AsyncGenerationStream

Read = Callable[[AsyncRuntimeEndpoint], Awaitable[AsyncGenerationStream | None]]


async def leave_by_with(endpoint: AsyncRuntimeEndpoint) -> AsyncGenerationStream:
    async with await endpoint.stream("x", rid="leaver") as running:
        assert await anext(running) == "Once"
    return running


async def leave_by_error(endpoint: AsyncRuntimeEndpoint) -> AsyncGenerationStream:
    with contextlib.suppress(ZeroDivisionError):
        async with await endpoint.stream("x", rid="leaver") as running:
            async for _ in running:
                raise ZeroDivisionError
    return running


async def leave_by_break(endpoint: AsyncRuntimeEndpoint) -> None:
    async for text in await endpoint.stream("x", rid="leaver"):
        assert text == "Once"
        break


async def leave_by_garbage_collection(endpoint: AsyncRuntimeEndpoint) -> None:
    running = await endpoint.stream("x", rid="leaver")
    await anext(running)
    alive = weakref.ref(running)
    del running
    gc.collect()
    assert alive() is None


async def leave_by_collection_in_a_thread(endpoint: AsyncRuntimeEndpoint) -> None:
    held = [await endpoint.stream("x", rid="leaver")]
    await anext(held[0])
    await asyncio.to_thread(held.clear)


async def leave_by_closing_the_endpoint(endpoint: AsyncRuntimeEndpoint) -> AsyncGenerationStream:
    running = await endpoint.stream("x", rid="leaver")
    await anext(running)
    await endpoint.close()
    return running


async def leave_by_cancelling_the_read(endpoint: AsyncRuntimeEndpoint) -> AsyncGenerationStream:
    running = await endpoint.stream("x", rid="leaver")
    task = asyncio.ensure_future(running.result())
    while running.texts != ["Once upon"]:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return running


async def leave_by_a_time_out(endpoint: AsyncRuntimeEndpoint) -> AsyncGenerationStream:
    running = await endpoint.stream("x", rid="leaver")
    await anext(running)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await running.result()
    return running


async def leave_by_cancelling_the_loops_body(endpoint: AsyncRuntimeEndpoint) -> AsyncGenerationStream:
    """As an interrupted cell does: the stream has a name outside, and IPython catches the cancellation."""
    running = await endpoint.stream("x", rid="leaver")
    busy = asyncio.Event()

    async def cell() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            async for _ in running:
                busy.set()
                await asyncio.sleep(60)

    task = asyncio.create_task(cell())
    await busy.wait()
    task.cancel()
    await task
    return running


WAYS: list[Read] = [
    leave_by_with,
    leave_by_error,
    leave_by_break,
    leave_by_garbage_collection,
    leave_by_collection_in_a_thread,
    leave_by_closing_the_endpoint,
    leave_by_cancelling_the_read,
    leave_by_a_time_out,
    leave_by_cancelling_the_loops_body,
]


@pytest.mark.parametrize("leave", WAYS)
async def test_leaving_closes_the_connection_and_aborts(server: ScriptedServer, leave: Read) -> None:
    server.on("/generate", endless())
    async with AsyncRuntimeEndpoint(server.url) as endpoint:
        running = await leave(endpoint)
        took = await wait_until_left(server, "leaver", time.monotonic())
        print(f"{leave.__name__}: the server knew {took * 1000:.0f} ms later")
        assert took < SOON
        if running is not None:
            assert running.text.startswith("Once")
            assert (await running.result()).text == running.text  # type: ignore[union-attr]
            assert running.error is None


async def test_another_task_can_go_on_reading(server: ScriptedServer) -> None:
    wait = Wait()
    made = cumulative(WORDS)
    server.on("/generate", stream(*made[:2], wait, *made[2:]))
    async with AsyncRuntimeEndpoint(server.url) as endpoint:
        running = await endpoint.stream("x")
        assert await asyncio.create_task(anext(running)) == "Once"
        with contextlib.suppress(TimeoutError):  # a cancellation that is done with
            async with asyncio.timeout(0.05):
                await asyncio.sleep(60)
        wait.go.set()
        assert [text async for text in running] == WORDS[1:]
    assert server.to("/abort_request") == []


async def test_cancelling_complete_stops_the_generation(server: ScriptedServer) -> None:
    wait = Wait()
    server.on("/generate", stream(wait))
    async with AsyncRuntimeEndpoint(server.url) as endpoint:
        task = asyncio.create_task(endpoint.complete("x", rid="leaver"))
        await asyncio.to_thread(wait.reached.wait, 10)
        task.cancel()
        since = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await wait_until_left(server, "leaver", since) < SOON


async def test_a_second_cancellation_does_not_stop_the_abort(server: ScriptedServer) -> None:
    arrived, go = threading.Event(), threading.Event()

    def slow(asked: Asked) -> Reply:
        arrived.set()
        go.wait(10)
        return Reply(body=b"")

    server.on("/generate", endless())
    server.on("/abort_request", slow)
    endpoint = AsyncRuntimeEndpoint(server.url)
    running = await endpoint.stream("x", rid="leaver")
    task = asyncio.ensure_future(running.result())
    while running.texts != ["Once upon"]:
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.to_thread(arrived.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    await endpoint.close()  # waits for what is on its way
    assert [asked.json for asked in server.to("/abort_request")] == [{"rid": "leaver"}]


async def read_a_stream(endpoint: AsyncRuntimeEndpoint) -> None:
    await (await endpoint.stream("x", rid="leaver")).result()


async def complete(endpoint: AsyncRuntimeEndpoint) -> None:
    await endpoint.complete("x", rid="leaver")


@pytest.mark.parametrize("wait_for_it", [read_a_stream, complete])
async def test_a_cancelled_task_does_not_wait_for_a_silent_server(
    server: ScriptedServer, wait_for_it: Callable[[AsyncRuntimeEndpoint], Coroutine[Any, Any, None]]
) -> None:
    go = threading.Event()
    server.on("/generate", endless())
    server.on("/abort_request", lambda asked: (go.wait(10), Reply(body=b""))[1])
    endpoint = AsyncRuntimeEndpoint(server.url)
    task = asyncio.create_task(wait_for_it(endpoint))
    await asyncio.to_thread(server.wait_for, "/generate")
    await asyncio.sleep(0.05)
    task.cancel()
    since = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    took = time.monotonic() - since
    go.set()
    await endpoint.close()
    assert [asked.json for asked in server.to("/abort_request")] == [{"rid": "leaver"}]
    print(f"cancelled after {took:.2f} s")
    assert took < 4  # the server is silent for longer


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_fork_does_not_close_its_parents_streams(server: ScriptedServer) -> None:
    wait = Wait()
    server.on("/generate", stream(*cumulative(WORDS)[:2], wait, *cumulative(WORDS)[2:]))
    async with AsyncRuntimeEndpoint(server.url) as endpoint:
        running = await endpoint.stream("x")
        assert [await anext(running), await anext(running)] == WORDS[:2]
        process = multiprocessing.get_context("fork").Process(target=running.leave_soon)
        process.start()
        process.join(20)
        assert process.exitcode == 0
        wait.go.set()
        assert [text async for text in running] == WORDS[2:]
        assert server.to("/abort_request") == []


async def test_leaving_while_the_connection_is_lost_aborts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path)
    wait = Wait()
    lost = sslproto.SSLProtocol.connection_lost

    def lose_and_leave(protocol: sslproto.SSLProtocol, error: Exception | None) -> None:
        lost(protocol, error)
        running.leave_soon()

    with ScriptedServer(certificate=certificate) as server:
        server.on("/generate", stream(cumulative(WORDS)[0], wait, CUT))
        async with AsyncRuntimeEndpoint(server.url, verify=certificate[0]) as endpoint:
            running = await endpoint.stream("x", rid="leaver")
            assert await anext(running) == "Once"
            monkeypatch.setattr(sslproto.SSLProtocol, "connection_lost", lose_and_leave)
            wait.go.set()
            asked = await asyncio.to_thread(server.wait_for, "/abort_request")
            assert asked[0].json == {"rid": "leaver"}


async def test_unnamed_samples_are_stopped_by_closing_the_connection(server: ScriptedServer) -> None:
    first = {**cumulative(WORDS, "given-0")[0], "index": 0}
    server.on("/generate", stream(first, Wait()))
    async with AsyncRuntimeEndpoint(server.url) as endpoint:
        running = await endpoint.stream("x", n=2)
        assert await anext(running.indexed()) == (0, "Once")
        await running.abort()
        assert await wait_until_left(server, "given-0", time.monotonic()) < SOON
        assert running.texts == ["Once", ""]
