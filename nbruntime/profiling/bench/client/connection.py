"""Connections of the load test's client: little work for each piece, since that would be measured, too."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

from nbruntime.endpoint import transport_errors
from nbruntime.endpoint.connection_pool import KEPT_SECONDS
from nbruntime.endpoint.settings import Settings
from nbruntime.errors import NbruntimeError
from nbruntime.profiling.bench.client.http_answer import HttpAnswer, NotHttpError

MOST_ERROR = 2**14
"""Bytes of an error's body that are kept."""


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

    def start(self, request: bytes, take: Callable[[bytes, float], object]) -> asyncio.Future[None]:
        """Send a request; the future is done with its answer, of which `take` gets the pieces and times."""
        assert self.transport is not None
        self.answer = HttpAnswer(lambda piece: take(piece, self.last_piece))
        self._ended = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._ended

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


class Connections:
    """The connections to one server, used again where the server keeps them open."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        parts = urlsplit(settings.base_url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = _tls_context(settings) if parts.scheme == "https" else None
        self._idle: deque[Connection] = deque()
        key = settings.secret.reveal()
        lines = [
            f"POST {parts.path}/generate HTTP/1.1",
            f"Host: {parts.netloc}",
            "User-Agent: nbruntime",
            "Accept: text/event-stream",
            "Accept-Encoding: identity",
            "Content-Type: application/json",
            *([f"Authorization: Bearer {key}"] if key else []),
        ]
        self._head = "\r\n".join(lines).encode("latin-1")

    def write(self, body: bytes) -> bytes:
        """Return a request for ``/generate`` as it is sent."""
        return b"%b\r\nContent-Length: %d\r\n\r\n%b" % (self._head, len(body), body)

    async def generate(self, request: bytes, take: Callable[[bytes, float], object]) -> float:
        """Send a request, let `take` read the pieces of its answer, and return when the last one came.

        Raises
        ------
        NbruntimeError
            If the server does not answer, refuses, or breaks off.
        """
        settings = self._settings
        connection = self._take_idle() or await self._connect()
        error_body: list[bytes] = []

        def read(piece: bytes, at: float) -> None:
            assert connection.answer is not None
            if connection.answer.status == 200:
                take(piece, at)
            elif sum(map(len, error_body)) < MOST_ERROR:
                error_body.append(piece)

        kept = False
        try:
            await connection.start(request, read)
            answer = connection.answer
            assert answer is not None
            kept = answer.keeps_connection
        except (OSError, NotHttpError) as problem:
            raise self._broken(connection, problem) from None
        finally:
            if kept:
                self._give_back(connection)
            else:
                connection.close()
        settings.note_answer()
        if answer.status != 200:
            text = b"".join(error_body).decode("utf-8", "replace")
            location = answer.headers.get("location", "")
            raise transport_errors.bad_status(settings, "/generate", answer.status, text, location)
        if not (kind := answer.headers.get("content-type", "")).startswith("text/event-stream"):
            raise transport_errors.not_a_stream(settings, "/generate", kind)
        return connection.last_piece

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def _take_idle(self) -> Connection | None:
        oldest = time.perf_counter() - KEPT_SECONDS
        while self._idle:
            connection = self._idle.pop()  # the last used: the server closes the others first
            if connection.idle_since >= oldest and not connection.closed:
                return connection
            connection.close()
        return None

    def _give_back(self, connection: Connection) -> None:
        connection.idle_since = time.perf_counter()
        self._idle.append(connection)

    async def _connect(self) -> Connection:
        settings = self._settings
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(settings.connect_timeout) as limit:
                _, made = await loop.create_connection(Connection, self._host, self._port, ssl=self._tls)
                return made
        except TimeoutError as error:
            if limit.expired():
                raise transport_errors.no_connection_in_time(settings, "/generate") from None
            raise transport_errors.no_answer(settings, "/generate", str(error), sent=False) from None
        except ssl.SSLError as error:
            raise transport_errors.certificate_refused(settings, "/generate", str(error)) from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise transport_errors.no_answer(settings, "/generate", reason, sent=False) from None

    def _broken(self, connection: Connection, problem: Exception) -> NbruntimeError:
        begun = connection.answer is not None and connection.answer.status > 0
        make = transport_errors.broken_off if begun else _no_answer
        return make(self._settings, "/generate", str(problem) or type(problem).__name__)


def _no_answer(settings: Settings, path: str, reason: str) -> NbruntimeError:
    return transport_errors.no_answer(settings, path, reason, sent=True)


def _tls_context(settings: Settings) -> ssl.SSLContext:
    verify = settings.certificates
    if isinstance(verify, bool):
        return ssl.create_default_context()
    import os

    try:
        if os.path.isdir(verify):
            return ssl.create_default_context(capath=verify)
        return ssl.create_default_context(cafile=verify)
    except OSError as error:
        raise transport_errors.certificates_unreadable(verify) from error
