"""Kept connections of both clients: as many as there are callers, used again, closed when idle."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support.scripted_server import Reply, ScriptedServer, answer

from nbruntime.endpoint import AsyncRuntimeEndpoint, RuntimeEndpoint, async_transport, connection_pool
from nbruntime.endpoint.connection_pool import KeptConnections

CALLERS = 300


class Meeting:
    """Answers once that all callers of a round have asked, so that each holds a connection of its own."""

    def __init__(self, callers: int) -> None:
        self.barrier = threading.Barrier(callers)

    def __call__(self, asked: object) -> Reply:
        self.barrier.wait(60)
        return Reply(json=answer(" Paris."))


def in_threads(action: Callable[[], Any]) -> None:
    threads = [threading.Thread(target=action) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


def test_as_many_connections_are_kept_as_there_are_threads(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_pool, "KEPT_SECONDS", 60.0)  # this machine may be slow
    server.on("/generate", Meeting(CALLERS))
    texts = []
    with caplog.at_level(logging.WARNING), RuntimeEndpoint(server.url) as endpoint:
        for _ in range(2):
            in_threads(lambda: texts.append(endpoint.complete("x").text))
        assert texts == [" Paris."] * 2 * CALLERS
        assert server.connections == CALLERS
    assert caplog.records == []
    server.wait_for_closed(CALLERS)


def test_as_many_connections_are_kept_as_there_are_tasks(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(async_transport, "KEPT_SECONDS", 60.0)
    server.on("/generate", Meeting(CALLERS))

    async def ask() -> None:
        async with AsyncRuntimeEndpoint(server.url) as endpoint:
            for _ in range(2):
                await asyncio.gather(*(endpoint.complete("x") for _ in range(CALLERS)))

    with caplog.at_level(logging.WARNING):
        asyncio.run(ask())
    assert server.connections == CALLERS
    assert caplog.records == []


class Connection:
    """Stands for a connection of urllib3."""

    closed = False

    def close(self) -> None:
        self.closed = True


def test_idle_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(connection_pool.time, "monotonic", lambda: now)
    kept = KeptConnections()
    old, used = Connection(), Connection()
    kept.put(None)
    kept.put(old)
    now += 3
    kept.put(used)
    assert kept.get() is used  # the latest
    now += 2
    kept.put(used)
    assert old.closed
    assert kept.get() is used
    assert not used.closed
    with pytest.raises(queue.Empty):
        kept.get()
