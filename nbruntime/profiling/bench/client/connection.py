"""One connection of the load test's client: little work for each piece, since that would be measured, too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

from nbruntime.profiling.bench.client.http_answer import HttpAnswer, NotHttpError


class Connection(asyncio.Protocol):
    """One connection to the server, with one request at a time.

    Pieces of an answer are read and timed where they arrive, without a task in between.
    """

    def __init__(self) -> None:
        self.idle_since = 0.0
        self.closed = False
        self.last_piece = 0.0
        self.transport: asyncio.Transport | None = None
        self.answer: HttpAnswer | None = None
        self._ended: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way to write."""
        self.transport = cast(asyncio.Transport, transport)

    def start(
        self, request: bytes, take: Callable[[bytes, float], object]
    ) -> tuple[HttpAnswer, asyncio.Future[None]]:
        """Send a request; `take` gets the pieces of its answer, the future is done at its end."""
        assert self.transport is not None
        self.answer = answer = HttpAnswer(lambda piece: take(piece, self.last_piece))
        self._ended = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return answer, self._ended

    def data_received(self, data: bytes) -> None:
        """Read a piece."""
        self.last_piece = time.perf_counter()
        answer = self.answer
        if answer is None:  # the server speaks unasked
            self.close()
            return
        try:
            answer.feed(data)
        except NotHttpError as error:
            self._end(error)
            self.close()
        else:
            if answer.done:
                self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the answer: it is complete if it lasts as long as the connection."""
        self.closed = True
        complete = exc is None and self.answer is not None and self.answer.until_close
        if complete and self.answer is not None:
            self.answer.done = True
        self._end(None if complete else exc or ConnectionError("the server closed the connection"))

    def close(self) -> None:
        """Close the connection; the server stops what it is doing for it."""
        self.closed = True
        if self.transport is not None:
            self.transport.abort()

    def _end(self, error: Exception | None) -> None:
        if self._ended is None or self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)
