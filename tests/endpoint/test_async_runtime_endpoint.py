"""`AsyncRuntimeEndpoint`: streams that are left in any way, many at once, in any loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from asyncio import sslproto
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.certificates import make_certificate
from support.scripted_server import CUT, Asked, Reply, ScriptedServer, Wait, answer, cumulative, stream

from nbruntime import AsyncRuntimeEndpoint, RuntimeEndpoint, errors
from nbruntime.generation import AsyncGenerationStream

WORDS = ["Once", " upon", " a", " time"]
SOON = 0.5
"""Seconds within which the server knows that nobody waits any more."""


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


def endless(asked: Asked) -> Reply:
    """A stream that stops after two words, until the client is gone."""
    made = cumulative(WORDS, asked.json["rid"])
    return stream(*made[:2], Wait(), *made[2:])


async def left(server: ScriptedServer, rid: str, since: float) -> float:
    """Wait until the server knows; give the seconds that it took."""
    while not (server.gone.is_set() and server.to("/abort_request")):
        assert time.monotonic() - since < 10
        await asyncio.sleep(0.002)
    took = time.monotonic() - since
    assert server.to("/abort_request")[0].json == {"rid": rid}
    return took


async def test_making_one_sends_nothing(server: ScriptedServer) -> None:
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


# Leaving

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
async def test_leaving_closes_and_aborts(server: ScriptedServer, leave: Read) -> None:
    server.on("/generate", endless)
    async with AsyncRuntimeEndpoint(server.url) as endpoint:
        running = await leave(endpoint)
        took = await left(server, "leaver", time.monotonic())
        print(f"{leave.__name__}: the server knew {took * 1000:.0f} ms later")
        assert took < SOON
        if running is not None:
            assert running.text.startswith("Once")
            assert (await running.result()).text == running.text  # type: ignore[union-attr]
            assert running.error is None


async def test_a_reader_that_ends_well_leaves_the_stream_to_the_next(server: ScriptedServer) -> None:
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
        assert await left(server, "leaver", since) < SOON


async def test_a_second_cancellation_does_not_stop_the_abort(server: ScriptedServer) -> None:
    arrived, go = threading.Event(), threading.Event()

    def slow(asked: Asked) -> Reply:
        arrived.set()
        go.wait(10)
        return Reply(body=b"")

    server.on("/generate", endless)
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
async def test_a_silent_server_does_not_hold_a_cancelled_task(
    server: ScriptedServer, wait_for_it: Callable[[AsyncRuntimeEndpoint], Coroutine[Any, Any, None]]
) -> None:
    go = threading.Event()
    server.on("/generate", endless)
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
    assert took < 2


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_fork_leaves_its_parents_streams_alone(server: ScriptedServer) -> None:
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


async def test_a_stream_that_is_left_as_its_connection_is_lost(
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


async def test_samples_without_names_are_left_with_the_connection(server: ScriptedServer) -> None:
    first = {**cumulative(WORDS, "given-0")[0], "index": 0}
    server.on("/generate", stream(first, Wait()))
    async with AsyncRuntimeEndpoint(server.url) as endpoint:
        running = await endpoint.stream("x", n=2)
        assert await anext(running.indexed()) == (0, "Once")
        await running.abort()
        assert await left(server, "given-0", time.monotonic()) < SOON
        assert running.texts == ["Once", ""]


# Many


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


async def test_a_thousand_streams_are_open_together_and_left_together(server: ScriptedServer) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    count = 1000
    server.on("/generate", endless)
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


async def test_a_kept_connection_that_the_server_has_closed(server: ScriptedServer) -> None:
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


# Loops


def test_one_after_the_other_and_at_once(server: ScriptedServer) -> None:
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


def test_a_stream_of_another_loop_is_left_there(server: ScriptedServer) -> None:
    server.on("/generate", endless)
    endpoint = AsyncRuntimeEndpoint(server.url)
    opened, closed = threading.Event(), threading.Event()

    async def hold() -> None:
        running = await endpoint.stream("x", rid="leaver")
        await anext(running)
        opened.set()
        await asyncio.to_thread(closed.wait, 10)
        await left(server, "leaver", time.monotonic())
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
def test_a_stream_that_is_left_as_its_loop_ends(
    server: ScriptedServer, leave: Callable[[str], Coroutine[Any, Any, None]]
) -> None:
    server.on("/generate", endless)
    with contextlib.suppress(LookupError, KeyboardInterrupt):
        asyncio.run(leave(server.url))
    gc.collect()
    assert server.wait_for("/abort_request")[0].json == {"rid": "leaver"}
    assert server.gone.wait(10)
    assert len(server.to("/abort_request")) == 1


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_an_answer_that_nobody_waits_for_as_its_loop_ends(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = aiohttp.TCPConnector.connect

    async def connect_slowly(*arguments: Any, **options: Any) -> Any:
        if server.to("/generate"):
            await asyncio.sleep(60)  # until the loop has ended
        return await connect(*arguments, **options)

    monkeypatch.setattr(aiohttp.TCPConnector, "connect", connect_slowly)
    server.on("/generate", endless)

    async def give_up() -> None:
        await asyncio.wait_for(AsyncRuntimeEndpoint(server.url).complete("x", rid="leaver"), 0.2)

    since = time.monotonic()
    with pytest.raises(TimeoutError):
        asyncio.run(give_up())
    assert time.monotonic() - since < 10
    assert server.wait_for("/abort_request")[0].json == {"rid": "leaver"}


def test_a_stream_that_is_left_as_the_program_ends(server: ScriptedServer) -> None:
    server.on("/generate", endless)
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


async def test_a_stream_that_is_left_late_opens_nothing(server: ScriptedServer) -> None:
    server.on("/generate", endless)
    async with AsyncRuntimeEndpoint(server.url) as endpoint:
        async for _ in await endpoint.stream("x", rid="leaver"):
            break
    await left(server, "leaver", time.monotonic())
    assert endpoint._transport._sessions == {}


def test_nothing_is_left_open_without_a_word(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
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


async def test_an_endpoint_that_is_forgotten_closes_its_connections(server: ScriptedServer) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        endpoint = await AsyncRuntimeEndpoint(server.url).connect()
        session = endpoint._transport._loop_session.session
        del endpoint
        gc.collect()
        for _ in range(200):
            if session.closed:
                break
            await asyncio.sleep(0.005)
        assert session.closed
    assert [str(one.message) for one in caught] == []


async def test_the_blocking_client_within_a_running_loop(server: ScriptedServer) -> None:
    server.on("/generate", stream(*cumulative(WORDS)))
    with RuntimeEndpoint(server.url) as endpoint:
        assert list(endpoint.stream("x")) == WORDS
