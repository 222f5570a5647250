"""The body of a streamed answer, for callers with an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import aiohttp

from nbruntime.endpoint import transport_errors
from nbruntime.endpoint.body import CLOSED_AT_ONCE
from nbruntime.endpoint.settings import Settings
from nbruntime.errors import NbruntimeError
from nbruntime.protocol.events import LAST_EVENT


class AsyncBody(AsyncIterator[bytes]):
    """The body of a streamed answer, in the pieces in which it arrives; `path` is the route, for errors."""

    def __init__(self, settings: Settings, response: aiohttp.ClientResponse, path: str) -> None:
        self._settings = settings
        self._response = response
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._tail = b""

    async def __anext__(self) -> bytes:
        problem: NbruntimeError | None = None
        try:
            piece = await self._response.content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RuntimeError) as error:
            piece = _unread(self._response.content)
            if not piece:
                problem = await asyncio.to_thread(self._error, error)
        if problem is not None:
            raise problem
        if not piece:
            raise StopAsyncIteration
        self._tail = piece[-32:]
        return piece

    def _error(self, error: Exception) -> NbruntimeError:
        if isinstance(error, TimeoutError):
            return transport_errors.no_more_in_time(self._settings, self._path)
        return transport_errors.broken_off(self._settings, self._path, reason_of(error))

    async def close(self) -> None:
        """Close the answer; keep its connection if the answer is complete."""
        if self._tail.endswith(LAST_EVENT):
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                await asyncio.wait_for(self._response.content.readany(), CLOSED_AT_ONCE)
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()

    def cut(self) -> None:
        """Break the connection, from any thread, also after its loop."""
        connection = self._response.connection
        transport = None if connection is None else connection.transport
        wire = None if transport is None else transport.get_extra_info("socket")
        if wire is not None:  # a lost TLS connection has none
            with contextlib.suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._response.close)


def _unread(content: aiohttp.StreamReader) -> bytes:
    """Return the bytes received before an error, which aiohttp would drop."""
    take = getattr(content, "_read_nowait", None)
    return b"" if take is None else bytes(take(-1))


def end_with_connection(response: aiohttp.ClientResponse) -> None:
    """Make reading an answer fail when its connection is lost: aiohttp may let the reader wait for ever."""
    protocol = None if response.connection is None else response.connection.protocol
    if protocol is None:
        return  # the answer is complete
    content = response.content

    def lost(closed: asyncio.Future[None] | None) -> None:
        if closed is not None and not closed.cancelled():
            closed.exception()  # mark it as retrieved
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the answer does not keep to HTTP"))

    closed: asyncio.Future[None] | None = getattr(protocol, "closed", None)
    if closed is None:
        lost(None)
    else:
        closed.add_done_callback(lost)


def reason_of(error: BaseException) -> str:
    """Return the message of the error that aiohttp has wrapped."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server closed the connection"  # its message may be all headers of an answer
    inner = getattr(error, "os_error", None) or getattr(error, "certificate_error", None)
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return str(inner or error) or type(error).__name__
