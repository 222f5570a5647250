"""The connections of the load test's client to its server, and the errors of its requests."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections import deque
from collections.abc import Callable
from urllib.parse import urlsplit

from nbruntime.endpoint import transport_errors
from nbruntime.endpoint.connection_pool import KEPT_SECONDS
from nbruntime.endpoint.settings import Settings
from nbruntime.profiling.bench.client.connection import Connection
from nbruntime.profiling.bench.client.http_answer import HttpAnswer, NotHttpError

MOST_ERROR = 2**14
"""Bytes of an error's body that are kept."""

GENERATE = "/generate"
ABORT = "/abort_request"

Take = Callable[[bytes, float], object]
"""Takes a piece of an answer, and when it came by `time.perf_counter`."""


class Connections:
    """The connections to one server, used again where the server keeps them open; no proxy is used."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        parts = urlsplit(settings.base_url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = _tls_context(settings) if parts.scheme == "https" else None
        self._idle: deque[Connection] = deque()
        key = settings.secret.reveal()
        self._prefix = parts.path
        lines = [
            f"Host: {parts.netloc}",
            "User-Agent: nbruntime",
            "Accept: text/event-stream, application/json",
            "Accept-Encoding: identity",
            "Content-Type: application/json",
            *([f"Authorization: Bearer {key}"] if key else []),
        ]
        self._headers = "\r\n".join(lines)

    def write(self, path: str, body: bytes) -> bytes:
        """Return a request as it is sent."""
        head = f"POST {self._prefix}{path} HTTP/1.1\r\n{self._headers}\r\nContent-Length: {len(body)}"
        return head.encode("latin-1") + b"\r\n\r\n" + body

    async def generate(self, request: bytes, take: Take) -> float:
        """Send a request for ``/generate``, let `take` read its stream, and return when the last piece came.

        Raises
        ------
        NbruntimeError
            If the server does not answer, refuses, or breaks off.
        """
        answer, ended = await self._send(GENERATE, request, take)
        if not (kind := answer.headers.get("content-type", "")).startswith("text/event-stream"):
            raise transport_errors.not_a_stream(self._settings, GENERATE, kind)
        return ended

    async def abort(self, rid: str) -> None:
        """Stop a request on the server; a name that the server does not know is no error."""
        await self._send(ABORT, self.write(ABORT, b'{"rid":"%b"}' % rid.encode()), lambda _piece, _at: None)

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    async def _send(self, path: str, request: bytes, take: Take) -> tuple[HttpAnswer, float]:
        connection = self._take_idle() or await self._connect(path)
        error_body: list[bytes] = []

        def read(piece: bytes, at: float) -> None:
            if answer.status == 200:
                take(piece, at)
            elif sum(map(len, error_body)) < MOST_ERROR:
                error_body.append(piece)

        kept = False
        answer, ended = connection.start(request, read)
        try:
            await ended
            kept = answer.keeps_connection
        except (OSError, NotHttpError) as problem:
            reason = str(problem) or type(problem).__name__
            if answer.status:
                raise transport_errors.broken_off(self._settings, path, reason) from None
            raise transport_errors.no_answer(self._settings, path, reason, sent=True) from None
        finally:
            if kept:
                connection.idle_since = time.perf_counter()
                self._idle.append(connection)
            else:
                connection.close()
        self._settings.note_answer()
        if answer.status != 200:
            text = b"".join(error_body).decode("utf-8", "replace")
            location = answer.headers.get("location", "")
            raise transport_errors.bad_status(self._settings, path, answer.status, text, location)
        return answer, connection.last_piece

    def _take_idle(self) -> Connection | None:
        oldest = time.perf_counter() - KEPT_SECONDS
        while self._idle:
            connection = self._idle.pop()  # the last used: the server closes the others first
            if connection.idle_since >= oldest and not connection.closed:
                return connection
            connection.close()
        return None

    async def _connect(self, path: str) -> Connection:
        settings = self._settings
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(settings.connect_timeout) as limit:
                _, made = await loop.create_connection(Connection, self._host, self._port, ssl=self._tls)
                return made
        except TimeoutError as error:
            if limit.expired():
                raise transport_errors.no_connection_in_time(settings, path) from None
            raise transport_errors.no_answer(settings, path, str(error), sent=False) from None
        except ssl.SSLError as error:
            raise transport_errors.certificate_refused(settings, path, str(error)) from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise transport_errors.no_answer(settings, path, reason, sent=False) from None


def _tls_context(settings: Settings) -> ssl.SSLContext:
    verify = settings.certificates
    if isinstance(verify, bool):
        return ssl.create_default_context()
    try:
        if os.path.isdir(verify):
            return ssl.create_default_context(capath=verify)
        return ssl.create_default_context(cafile=verify)
    except OSError as error:
        raise transport_errors.certificates_unreadable(verify) from error
