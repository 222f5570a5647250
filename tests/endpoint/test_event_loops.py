"""`AsyncRuntimeEndpoint` in several event loops, and when a loop or the program ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
import pytest
from support.clients import wait_until_left
from support.scripted_server import WORDS, Reply, ScriptedServer, answer, cumulative, endless, stream

from nbruntime import AsyncRuntimeEndpoint, RuntimeEndpoint, errors


def test_one_client_serves_several_event_loops(server: ScriptedServer) -> None:
    server.on("/generate", Reply(json=answer("hi", [1])))
    endpoint = AsyncRuntimeEndpoint(server.url)

    async def ask() -> str:
        return (await endpoint.complete("x")).text  # type: ignore[union-attr]

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert [asyncio.run(ask()) for _ in range(3)] == ["hi"] * 3
        texts: list[str] = []
        threads = [threading.Thread(target=lambda: texts.append(asyncio.run(ask()))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert texts == ["hi"] * 4
        asyncio.run(endpoint.close())
        assert endpoint._transport._sessions == {}
        gc.collect()
    assert [str(one.message) for one in caught if str(one.message).startswith("Unclosed")] == []


def test_close_leaves_streams_of_another_loop_in_that_loop(server: ScriptedServer) -> None:
    server.on("/generate", endless())
    endpoint = AsyncRuntimeEndpoint(server.url)
    opened, closed = threading.Event(), threading.Event()

    async def hold() -> None:
        running = await endpoint.stream("x", rid="leaver")
        await anext(running)
        opened.set()
        await asyncio.to_thread(closed.wait, 10)
        await wait_until_left(server, "leaver", time.monotonic())
        assert running.done

    thread = threading.Thread(target=lambda: asyncio.run(hold()))
    thread.start()
    assert opened.wait(10)
    asyncio.run(endpoint.close())
    closed.set()
    thread.join(10)
    assert not thread.is_alive()
    assert server.wait_for("/abort_request")[0].json == {"rid": "leaver"}


async def break_unnamed(url: str) -> None:
    async for _ in await AsyncRuntimeEndpoint(url).stream("x", rid="leaver"):
        break


async def break_named(url: str) -> None:
    running = await AsyncRuntimeEndpoint(url).stream("x", rid="leaver")
    async for _ in running:
        break


async def break_within_the_endpoint(url: str) -> None:
    async with AsyncRuntimeEndpoint(url) as endpoint:
        async for _ in await endpoint.stream("x", rid="leaver"):
            break


async def fail(url: str) -> None:
    running = await AsyncRuntimeEndpoint(url).stream("x", rid="leaver")
    async for _ in running:
        raise LookupError


async def fail_within_the_endpoint(url: str) -> None:
    async with AsyncRuntimeEndpoint(url) as endpoint:
        async for _ in await endpoint.stream("x", rid="leaver"):
            raise LookupError


async def be_interrupted(url: str) -> None:
    running = await AsyncRuntimeEndpoint(url).stream("x", rid="leaver")
    async for _ in running:
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(60)


async def read_in_a_task_that_ends_with_the_loop(url: str) -> None:
    busy = asyncio.Event()

    async def read() -> None:
        running = await AsyncRuntimeEndpoint(url).stream("x", rid="leaver")
        async for _ in running:
            busy.set()
            await asyncio.sleep(60)

    reading = asyncio.create_task(read())
    await busy.wait()
    assert not reading.done()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize(
    "leave",
    [
        break_unnamed,
        break_named,
        break_within_the_endpoint,
        fail,
        fail_within_the_endpoint,
        be_interrupted,
        read_in_a_task_that_ends_with_the_loop,
    ],
)
def test_a_stream_left_at_the_end_of_its_loop_is_aborted(
    server: ScriptedServer, leave: Callable[[str], Coroutine[Any, Any, None]]
) -> None:
    server.on("/generate", endless())
    with contextlib.suppress(LookupError, KeyboardInterrupt):
        asyncio.run(leave(server.url))
    gc.collect()
    assert server.wait_for("/abort_request")[0].json == {"rid": "leaver"}
    assert server.gone.wait(10)
    assert len(server.to("/abort_request")) == 1


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_request_given_up_at_the_end_of_its_loop_is_aborted(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = aiohttp.TCPConnector.connect

    async def connect_slowly(*arguments: Any, **options: Any) -> Any:
        if server.to("/generate"):
            await asyncio.sleep(60)  # until the loop has ended
        return await connect(*arguments, **options)

    monkeypatch.setattr(aiohttp.TCPConnector, "connect", connect_slowly)
    server.on("/generate", endless())

    async def give_up() -> None:
        asking = asyncio.create_task(AsyncRuntimeEndpoint(server.url).complete("x", rid="leaver"))
        await asyncio.to_thread(server.wait_for, "/generate")
        await asyncio.wait_for(asking, 0.2)

    since = time.monotonic()
    with pytest.raises(TimeoutError):
        asyncio.run(give_up())
    assert time.monotonic() - since < 10
    assert server.wait_for("/abort_request")[0].json == {"rid": "leaver"}


def test_a_stream_left_at_the_end_of_the_program_is_aborted(server: ScriptedServer) -> None:
    server.on("/generate", endless())
    program = f"""
import asyncio
from nbruntime import AsyncRuntimeEndpoint

async def main():
    async for _ in await AsyncRuntimeEndpoint({server.url!r}).stream("x", rid="leaver"):
        break

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert [asked.json for asked in server.to("/abort_request")] == [{"rid": "leaver"}]


async def test_leaving_a_stream_after_close_opens_no_session(server: ScriptedServer) -> None:
    server.on("/generate", endless())
    async with AsyncRuntimeEndpoint(server.url) as endpoint:
        async for _ in await endpoint.stream("x", rid="leaver"):
            break
    await wait_until_left(server, "leaver", time.monotonic())
    assert endpoint._transport._sessions == {}


def test_no_unclosed_session_is_reported(server: ScriptedServer, caplog: pytest.LogCaptureFixture) -> None:
    """asyncio's log says what aiohttp finds unclosed."""

    async def refused() -> None:
        async with AsyncRuntimeEndpoint("http://127.0.0.1:9"):
            pass

    async def forgotten() -> None:
        await AsyncRuntimeEndpoint(server.url).connect()

    with pytest.raises(errors.ServerConnectionError):
        asyncio.run(refused())
    asyncio.run(forgotten())
    gc.collect()
    assert caplog.messages == []


async def test_a_collected_endpoint_closes_its_connections(server: ScriptedServer) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        endpoint = await AsyncRuntimeEndpoint(server.url).connect()
        del endpoint
        gc.collect()
        await asyncio.to_thread(server.wait_for_closed, 1)
    assert [str(one.message) for one in caught] == []


async def test_the_blocking_client_works_within_a_running_loop(server: ScriptedServer) -> None:
    server.on("/generate", stream(*cumulative(WORDS)))
    with RuntimeEndpoint(server.url) as endpoint:
        assert list(endpoint.stream("x")) == WORDS
