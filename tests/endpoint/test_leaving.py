"""Leaving a stream of `RuntimeEndpoint` in any way closes its connection and aborts its request."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import urllib3
from support.clients import KINDS, connected
from support.scripted_server import (
    WORDS,
    Asked,
    Reply,
    ScriptedServer,
    Wait,
    answer,
    cumulative,
    dump,
    endless,
    events,
    stream,
)

from nbruntime import errors
from nbruntime.endpoint import RuntimeEndpoint
from nbruntime.generation import Generation


def leave_by_with(endpoint: RuntimeEndpoint) -> str:
    with endpoint.stream("x", rid="leaver") as running:
        next(running)
    return running.text


def leave_by_close(endpoint: RuntimeEndpoint) -> str:
    running = endpoint.stream("x", rid="leaver")
    next(running)
    running.close()
    running.close()
    return running.text


def leave_by_error(endpoint: RuntimeEndpoint) -> str:
    with contextlib.suppress(ZeroDivisionError), endpoint.stream("x", rid="leaver") as running:
        for _ in running:
            raise ZeroDivisionError
    return running.text


def leave_by_garbage_collection(endpoint: RuntimeEndpoint) -> str:
    running = endpoint.stream("x", rid="leaver")
    next(running)
    text = running.text
    alive = weakref.ref(running)
    del running
    gc.collect()
    assert alive() is None
    return text


def leave_by_break_from_a_temporary(endpoint: RuntimeEndpoint) -> str:
    for text in endpoint.stream("x", rid="leaver"):
        return text
    return ""


@pytest.mark.parametrize(
    "leave",
    [
        leave_by_with,
        leave_by_close,
        leave_by_error,
        leave_by_garbage_collection,
        leave_by_break_from_a_temporary,
    ],
)
def test_leaving_closes_the_connection_and_aborts(
    server: ScriptedServer, endpoint: RuntimeEndpoint, leave: Callable[[RuntimeEndpoint], str]
) -> None:
    server.on("/generate", endless(Wait()))
    assert leave(endpoint).startswith("Once")
    assert server.gone.wait(10)
    assert [asked.json for asked in server.wait_for("/abort_request")] == [{"rid": "leaver"}]


@contextlib.contextmanager
def interrupt_when(ready: threading.Event) -> Iterator[None]:
    """Interrupt the main thread once, when it is ready.

    A signal that comes just before a system call does not end the call, so it is sent until it has arrived.
    """
    arrived = threading.Event()

    def handler(number: int, frame: object) -> None:
        if not arrived.is_set():
            arrived.set()
            raise KeyboardInterrupt

    def interrupt() -> None:
        assert ready.wait(10)
        while not arrived.wait(0.1):
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_of_a_stream_stops_the_generation(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    server.on("/generate", endless(Wait()))
    ready = threading.Event()
    running = endpoint.stream("x", rid="interrupted")

    def read() -> None:
        with running:
            for text in running:
                if text == " upon":
                    ready.set()

    with interrupt_when(ready), pytest.raises(KeyboardInterrupt):
        read()
    assert running.text == "Once upon"
    assert running.result().text == "Once upon"  # type: ignore[union-attr]
    assert server.gone.wait(10)
    assert server.wait_for("/abort_request")[0].json == {"rid": "interrupted"}


def test_an_interrupt_of_complete_stops_the_generation(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    wait = Wait()
    server.on("/generate", stream(wait))  # nothing that complete() could return with
    with interrupt_when(wait.reached), pytest.raises(KeyboardInterrupt):
        endpoint.complete("x", rid="interrupted")
    assert server.gone.wait(10)
    assert server.wait_for("/abort_request")[0].json == {"rid": "interrupted"}


def test_abort_from_another_thread(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    wait = Wait()
    reason = {"type": "abort", "message": "Aborted", "status_code": None, "err_type": None}

    def reply(asked: Asked) -> Reply:
        made = events(asked.json["rid"])
        last = answer("Once upon", [100, 101], id=asked.json["rid"], finish_reason=reason)
        return stream(*made[:2], wait, last)

    server.on("/generate", reply)

    def aborted(asked: Asked) -> Reply:
        wait.go.set()
        return Reply(body=b"")

    server.on("/abort_request", aborted)
    with endpoint.stream("x") as running:
        assert next(running) == "Once"
        with ThreadPoolExecutor(1) as pool:
            rest = pool.submit(list, running)
            assert wait.reached.wait(10)
            running.abort()
            assert rest.result(10) == [" upon"]
        generation = running.result()
    assert isinstance(generation, Generation)
    assert generation.finish_reason is not None
    assert generation.finish_reason.type == "abort"
    assert "aborted" in repr(running)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("ends", ["in chunks", "by length", "with its connection"])
@pytest.mark.parametrize("urllib3_is", ["new", "old"])
def test_close_from_another_thread_wakes_the_reader(
    certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch, scheme: str, ends: str, urllib3_is: str
) -> None:
    if urllib3_is == "old":
        for each in urllib3.HTTPResponse.__mro__:
            monkeypatch.delattr(each, "read1", raising=False)
    secure = scheme == "https"
    two = threading.Event()

    def read() -> list[str]:
        seen = []
        for text in running:
            seen.append(text)
            if len(seen) == 2:
                two.set()
        return seen

    with ScriptedServer(certificate=certificate if secure else None) as server:
        made = [b"data: %b\n\n" % dump(event) for event in events()[:2]]
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9999\r\n\r\n"
        if ends == "by length":
            server.on("/generate", Reply(pieces=[head, *made, Wait()], raw=True))
        else:
            server.on("/generate", stream(*made, Wait(), chunked=ends == "in chunks"))
        endpoint = RuntimeEndpoint(server.url, verify=certificate[0] if secure else None)
        running = endpoint.stream("x", rid="closed")
        with endpoint, ThreadPoolExecutor(2) as pool:
            texts = pool.submit(read)
            assert two.wait(10)
            time.sleep(0.2)  # by now it waits for bytes
            pool.submit(running.close).result(10)
            assert texts.result(10) == ["Once", " upon"]
        assert server.wait_for("/abort_request")[0].json == {"rid": "closed"}


def test_closing_a_finished_stream_keeps_the_pooled_connection(
    server: ScriptedServer, endpoint: RuntimeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.on("/generate", stream(*events(), done=False))
    running = endpoint.stream("x")
    put = urllib3.HTTPConnectionPool._put_conn

    def put_and_close(kept: urllib3.HTTPConnectionPool, connection: Any) -> None:
        put(kept, connection)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(running.close).result(10)
        assert connection.sock is not None  # another request may use it by now

    monkeypatch.setattr(urllib3.HTTPConnectionPool, "_put_conn", put_and_close)
    assert list(running) == WORDS


def test_samples_are_aborted_by_the_rids_of_the_server(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    made = [{**cumulative(WORDS, f"given-{index}")[0], "index": index} for index in (0, 1)]
    server.on("/generate", stream(*made, Wait()))
    with endpoint.stream("x", n=2) as running:
        pairs = running.indexed()
        assert [next(pairs), next(pairs)] == [(0, "Once"), (1, "Once")]
    assert [asked.json["rid"] for asked in server.wait_for("/abort_request", 2)] == ["given-0", "given-1"]


def test_close_leaves_the_streams(server: ScriptedServer) -> None:
    server.on("/generate", endless(Wait()))
    endpoint = RuntimeEndpoint(server.url)
    running = endpoint.stream("x", rid="left")
    assert next(running) == "Once"
    endpoint.close()
    assert running.done
    assert server.gone.wait(10)
    assert server.wait_for("/abort_request")[0].json == {"rid": "left"}


def test_a_stream_opened_while_the_endpoint_closes_is_aborted_when_collected(server: ScriptedServer) -> None:
    asked, go = threading.Event(), threading.Event()

    def slow(_: Asked) -> Reply:
        asked.set()
        go.wait(10)
        return stream(events()[0], Wait())

    server.on("/generate", slow)
    endpoint = RuntimeEndpoint(server.url)
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(endpoint.stream, "x", rid="late")
        assert asked.wait(10)
        endpoint.close()
        go.set()
        running = opening.result(10)
    del opening
    assert next(running) == "Once"
    del running
    gc.collect()
    assert server.wait_for("/abort_request")[0].json == {"rid": "late"}
    endpoint.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_aborted_concurrently(server: ScriptedServer, kind: str) -> None:
    together = threading.Barrier(4)

    def slow(asked: Asked) -> Reply:
        if asked.json["rid"] != "r_0":
            together.wait(10)  # comes only while others are on their way
        return Reply(body=b"")

    server.on("/generate", stream({**events()[0], "index": 0}, Wait()))
    server.on("/abort_request", slow)
    with connected(kind, server.url) as client:
        client.call("abort", [f"r_{number}" for number in range(9)])
    assert sorted(asked.json["rid"] for asked in server.to("/abort_request")) == [f"r_{n}" for n in range(9)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_abort_does_not_stop_the_others(server: ScriptedServer, kind: str) -> None:
    names = [f"r_{number}" for number in range(60)]

    def refuse_one(asked: Asked) -> Reply:
        return Reply(status=503 if asked.json["rid"] == "r_1" else 200, body=b"")

    server.on("/abort_request", refuse_one)
    with connected(kind, server.url) as client:
        with pytest.raises(errors.ServerBusyError):
            client.call("abort", names)
        if kind == "async":
            client.run(asyncio.to_thread(server.wait_for, "/abort_request", len(names)))
    assert sorted(asked.json["rid"] for asked in server.to("/abort_request")) == sorted(names)


@pytest.mark.parametrize("kind", KINDS)
def test_abort_closes_the_connection_if_the_key_may_not_abort(server: ScriptedServer, kind: str) -> None:
    server.on("/generate", lambda asked: stream(*events()[:2], Wait()))
    server.on("/abort_request", Reply(json={"error": "Unauthorized"}, status=401))

    with connected(kind, server.url) as client:
        running = client.call("stream", "x")
        abort = running.abort()
        if kind == "async":
            client.run(abort)
        assert running.done
        assert server.gone.wait(10)


def test_a_kept_error_does_not_keep_streams_alive(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    def cell() -> None:
        running = endpoint.stream("x", rid="left")
        next(running)
        endpoint.detokenize([1])

    server.on("/generate", lambda asked: stream(*cumulative(WORDS)[:2], Wait()))
    server.on("/detokenize", Reply(json={"error": "no"}, status=500))
    try:
        cell()
    except errors.ServerFailureError:
        shown = repr(endpoint)  # the traceback still holds the stream, so nothing was aborted yet
    gc.collect()
    assert server.wait_for("/abort_request")[0].json == {"rid": "left"}
    assert "then: The server answered 500" in shown
