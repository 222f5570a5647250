"""Both clients behind one blocking interface, so that one test asks both of them; and helpers for streams."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from nbruntime import errors
from nbruntime.endpoint import AsyncRuntimeEndpoint, RuntimeEndpoint
from nbruntime.generation import AsyncGenerationStream, GenerationStream
from support.scripted_server import ScriptedServer

SOON = 2.0
"""Seconds within which a server knows that its answer is not read any more: far less than its wait lasts."""

KINDS = ("blocking", "async")


@dataclass
class Reading:
    """The texts and the error of a stream that was read to its end."""

    texts: list[str] = field(default_factory=list)
    error: Exception | None = None
    stream: GenerationStream | AsyncGenerationStream | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)


class Blocking:
    """`RuntimeEndpoint` as it is."""

    kind = "blocking"

    def __init__(self, url: str, **options: Any) -> None:
        self.client = RuntimeEndpoint(url, **options)

    def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        return getattr(self.client, name)(*arguments, **options)

    def read(
        self,
        *arguments: Any,
        method: str = "stream",
        between: Callable[[], None] | None = None,
        **options: Any,
    ) -> Reading:
        """Read a stream; after its first text `between` is called."""
        reading = Reading()
        try:
            with getattr(self.client, method)(*arguments, **options) as reading.stream:
                for text in reading.stream:
                    reading.texts.append(text)
                    if between is not None and len(reading.texts) == 1:
                        between()
        except Exception as error:  # noqa: BLE001 (what is tested)
            reading.error = error
        return reading

    def close(self) -> None:
        self.client.close()


class Async:
    """`AsyncRuntimeEndpoint` in an event loop of its own."""

    kind = "async"

    def __init__(self, url: str, *, connect: bool = True, **options: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.client = AsyncRuntimeEndpoint(url, **options)
        try:
            if connect:
                self.run(self.client.connect())
        except BaseException:
            self.close()
            raise

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        return self.run(getattr(self.client, name)(*arguments, **options))

    def read(
        self,
        *arguments: Any,
        method: str = "stream",
        between: Callable[[], None] | None = None,
        **options: Any,
    ) -> Reading:
        """Read a stream; after its first text `between` is called."""

        async def read() -> Reading:
            reading = Reading()
            try:
                async with await getattr(self.client, method)(*arguments, **options) as reading.stream:
                    async for text in reading.stream:
                        reading.texts.append(text)
                        if between is not None and len(reading.texts) == 1:
                            between()
            except Exception as error:  # noqa: BLE001 (what is tested)
                reading.error = error
            return reading

        return self.run(read())

    def close(self) -> None:
        self.run(self.client.close())
        self.loop.close()


@contextlib.contextmanager
def connected(kind: str, url: str, **options: Any) -> Iterator[Blocking | Async]:
    """Open a client of either kind."""
    driver = (Blocking if kind == "blocking" else Async)(url, **options)
    try:
        yield driver
    finally:
        driver.close()


def failure(action: Callable[[], Any]) -> errors.NbruntimeError:
    """Give the error that an action ends with."""
    with pytest.raises(errors.NbruntimeError) as caught:
        action()
    return caught.value


async def stream_text(endpoint: RuntimeEndpoint, prompt: str, **arguments: Any) -> AsyncGenerator[str, None]:
    """Read a stream with the asynchronous client that has an endpoint's settings."""
    async with (
        AsyncRuntimeEndpoint.beside(endpoint) as client,
        await client.stream(prompt, **arguments) as running,
    ):
        async for text in running:
            yield text


async def collect(endpoint: RuntimeEndpoint) -> list[str]:
    return [text async for text in stream_text(endpoint, "x", max_new_tokens=4)]


async def wait_until_left(server: ScriptedServer, rid: str, since: float) -> float:
    """Wait until the server knows that a request was left; give the seconds that it took."""
    while not (server.gone.is_set() and server.to("/abort_request")):
        assert time.monotonic() - since < 10
        await asyncio.sleep(0.002)
    took = time.monotonic() - since
    assert server.to("/abort_request")[0].json == {"rid": rid}
    return took
