"""Both clients behind one blocking face, so that one test asks both of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from nbruntime.endpoint import AsyncRuntimeEndpoint, RuntimeEndpoint
from nbruntime.generation import AsyncGenerationStream, GenerationStream

KINDS = ("blocking", "async")


@dataclass
class Reading:
    """What came of a stream that was read to its end."""

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
