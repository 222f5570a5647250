"""`RuntimeEndpoint` in many threads and in forked processes."""

from __future__ import annotations

import gc
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.scripted_server import WORDS, Reply, ScriptedServer, Wait, answer, endless, events, stream
from support.server_client import wait_until

from nbruntime.endpoint import RuntimeEndpoint, connection_pool


def closers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "nbruntime-closer"]


def test_only_collected_streams_are_closed_in_a_thread(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    server.on("/generate", endless())
    gc.collect()
    wait_until(lambda: closers() == [])  # of earlier tests
    with endpoint.stream("x") as stream:
        next(stream)
    assert closers() == []
    for _ in range(3):
        next(endpoint.stream("x"))  # collected at once
    endpoint.close()
    assert len(server.to("/abort_request")) == 4
    wait_until(lambda: closers() == [])


def test_ninety_six_threads_share_one_pool(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", lambda asked: Reply(json=answer(asked.json["text"], [1])))
    barrier = threading.Barrier(96)

    def ask(number: int) -> str:
        barrier.wait(30)
        texts = [endpoint.complete(f"{number}.{n}").text for n in range(3)]  # type: ignore[union-attr]
        return " ".join(texts)

    with ThreadPoolExecutor(96) as pool:
        assert list(pool.map(ask, range(96))) == [f"{n}.0 {n}.1 {n}.2" for n in range(96)]
    print(f"{server.connections} connections for {len(server.asked)} requests")
    assert server.connections <= 97


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_opens_connections_of_its_own(
    server: ScriptedServer, endpoint: RuntimeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_pool, "KEPT_SECONDS", 60.0)  # this machine may be slow
    server.on("/generate", stream(*events()))
    list(endpoint.stream("x"))
    connections = server.connections

    def child(queue: Any) -> None:
        queue.put("".join(endpoint.stream("x")))

    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    assert queue.get(timeout=20) == "Once upon a time"
    process.join(20)
    assert "".join(endpoint.stream("x")) == "Once upon a time"
    assert server.connections == connections + 1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_does_not_close_its_parents_streams(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    wait = Wait()
    server.on("/generate", endless(wait))
    running = endpoint.stream("x")
    assert next(running) == "Once"

    def child() -> None:
        running.abort()
        running.close()
        endpoint.close()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(20)
    assert process.exitcode == 0
    wait.go.set()
    assert list(running) == WORDS[1:]
    assert server.to("/abort_request") == []
