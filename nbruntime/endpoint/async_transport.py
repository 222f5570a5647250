"""HTTP with one server over aiohttp: what `nbruntime.endpoint.transport` is to blocking callers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import weakref
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import aiohttp
from requests.utils import get_environ_proxies, select_proxy

from nbruntime.endpoint import transport_errors
from nbruntime.endpoint.background_closer import BackgroundCloser
from nbruntime.endpoint.http import Abort, HttpRequest, HttpResponse, Operation, RunInThread, abort
from nbruntime.endpoint.settings import Settings
from nbruntime.endpoint.transport import ABORTS_AT_ONCE, CLOSED_AT_ONCE, Transport
from nbruntime.errors import NbruntimeError, ServerConnectionError
from nbruntime.generation.async_stream import CANCELLED_PATIENCE
from nbruntime.protocol.events import LAST_EVENT

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

KEPT_SECONDS = 4.0
"""How long an idle connection is kept: SGLang closes it after five."""

CLOSING_PATIENCE = 7.0
"""Seconds that `AsyncTransport.close` waits for aborts that are on their way."""


@dataclass
class _LoopSession:
    """What belongs to one event loop: a session, and the tasks that clean up."""

    session: aiohttp.ClientSession
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


class AsyncTransport:
    """Send requests to one server, and run calls (`nbruntime.endpoint.http`).

    Parameters
    ----------
    settings : Settings
        How the server is reached.

    Attributes
    ----------
    cleaner : BackgroundCloser
        Started by whoever opens a stream, for `abandon`.

    Notes
    -----
    Connections belong to an event loop: each loop that uses the transport has a session of its own, made at
    its first request.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.cleaner = BackgroundCloser()
        self._rooms: dict[asyncio.AbstractEventLoop, _LoopSession] = {}
        weakref.finalize(self, _close_all, self._rooms)

    @property
    def _room(self) -> _LoopSession:
        loop = asyncio.get_running_loop()
        room = self._rooms.get(loop)
        if room is None:
            for old in [old for old in list(self._rooms) if old.is_closed()]:
                _close_elsewhere(self._rooms, old)
            room = self._rooms[loop] = _LoopSession(self._open_session())
        return room

    def _open_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            # No limit of its own: how many requests run at once is the caller's choice.
            connector=aiohttp.TCPConnector(limit=0, ssl=self._certificates(), keepalive_timeout=KEPT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "nbruntime"},
            trust_env=False,  # of the environment it is the proxies that are wanted, not .netrc
            read_bufsize=2**18,
        )

    def _certificates(self) -> ssl.SSLContext | bool:
        verify = self.settings.verify
        if verify in (None, True) and not self.settings.local:
            # As requests does for the blocking client.
            verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        if verify is None or isinstance(verify, bool):
            return verify is not False
        try:
            if os.path.isdir(verify):
                return ssl.create_default_context(capath=verify)
            return ssl.create_default_context(cafile=verify)
        except OSError as error:
            raise self.settings.note_error(transport_errors.certificates_unreadable(verify)) from error

    async def close(self) -> None:
        """Finish what cleans up, and close the connections; the next request opens new ones."""
        here = asyncio.get_running_loop()
        for loop in list(self._rooms):
            if loop is not here:
                _close_elsewhere(self._rooms, loop)
        await _close_room(self._rooms, here)
        self.cleaner.close(timeout=0)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that cleans up, and hold it until it is done."""
        tasks = self._room.tasks
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    async def run(self, call: Operation[_T]) -> _T:
        """Run a call, and give its result."""
        step = partial(next, call)
        while True:
            try:
                effect = step()
            except StopIteration as stop:
                result: _T = stop.value
                return result
            try:
                given = await self._perform(effect)
            except BaseException as error:  # noqa: BLE001 (the call decides what it means, also of a cancellation)
                step = partial(call.throw, error)
            else:
                step = partial(call.send, given)

    async def _perform(self, effect: HttpRequest | Abort | RunInThread) -> Any:
        if isinstance(effect, HttpRequest):
            return await self.send(effect)
        if isinstance(effect, RunInThread):
            return await asyncio.to_thread(effect.function)
        # In a task of its own: the one that runs this has been cancelled, and is not to be kept waiting.
        await asyncio.wait([self.spawn(self._abort_quietly(effect.rids))], timeout=CANCELLED_PATIENCE)
        return None

    async def _abort_quietly(self, rids: Sequence[str]) -> None:
        try:
            await self.abort(rids)
        except NbruntimeError as error:
            _log.debug("abort of %s: %s", rids, error)
        except asyncio.CancelledError:  # the loop ends
            self.cleaner.start()
            self.cleaner(partial(_abort_blocking, self.settings, rids))
            raise

    async def abort(self, rids: Sequence[str]) -> None:
        """Stop requests on the server by their names: the first, and if that works the others together."""
        for rid in rids[:1]:
            await self.send(abort(rid))
        together = asyncio.Semaphore(ABORTS_AT_ONCE)

        async def stop(rid: str) -> None:
            async with together:
                await self.send(abort(rid))

        await asyncio.gather(*map(stop, rids[1:]))

    def abandon(self, body: AsyncBody, rids: Sequence[str]) -> None:
        """Close an answer and stop its requests, from any thread and without an event loop; never waits."""
        body.cut()
        if rids:
            self.cleaner(partial(_abort_blocking, self.settings, rids))

    async def send(self, ask: HttpRequest) -> HttpResponse | AsyncBody:
        """Send one request and wait for its answer.

        Parameters
        ----------
        ask : HttpRequest
            What to send.

        Returns
        -------
        HttpResponse or AsyncBody
            An `AsyncBody` of a stream, which the caller closes.

        Raises
        ------
        NbruntimeError
            Of the class that fits what went wrong.
        """
        data = ask.data()
        try:
            response, content = await self._request(ask, data)
        except ServerConnectionError as error:
            if not (ask.safe and error.sent):
                raise
            # The server may have closed a kept connection in this moment.
            response, content = await self._request(ask, data)
        if response.status >= 300:
            location = response.headers.get("location", "")
            text = content.decode("utf-8", "replace")
            raise self.settings.note_error(
                transport_errors.bad_status(self.settings, ask.path, response.status, text, location)
            )
        if not ask.streamed:
            return HttpResponse(self.settings, ask.path, content)
        kind = response.headers.get("content-type", "")
        if not kind.startswith("text/event-stream"):
            response.close()
            raise transport_errors.not_a_stream(self.settings, ask.path, kind)
        return AsyncBody(self.settings, response, ask.path)

    async def _request(self, ask: HttpRequest, data: bytes | None) -> tuple[aiohttp.ClientResponse, bytes]:
        """Send a request once; the answer is read to its end unless it is a stream."""
        connect, read = ask.timeouts(self.settings)
        content = b""
        session = self._room.session
        if not ask.safe:
            await _hear_of_ends()
        try:
            response = await session.request(
                ask.method,
                self.settings.url(ask.path),
                data=data,
                headers=self._headers(ask),
                timeout=aiohttp.ClientTimeout(total=None, connect=connect, sock_read=read),
                proxy=self._proxy(),
                allow_redirects=False,  # the key must not go to another host
            )
            self.settings.note_answer()
            _end_with_connection(response)
            if response.status >= 300 or not ask.streamed:
                async with response:
                    content = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            # In a thread: the owner of a server may wait a moment until it knows more.
            problem = await asyncio.to_thread(self._error, error, ask.path)
        except asyncio.CancelledError as stopped:
            raise stopped.with_traceback(None) from None  # aiohttp's frames hold the key
        else:
            return response, content
        # Not as its cause: aiohttp's errors and frames hold the key.
        raise self.settings.note_error(problem)

    def _proxy(self) -> str | None:
        """Find the proxy of the environment, as the blocking client does."""
        if self.settings.local:
            return None
        url = self.settings.base_url
        proxy = select_proxy(url, get_environ_proxies(url))
        return proxy if proxy is None or "://" in proxy else f"http://{proxy}"

    def _headers(self, ask: HttpRequest) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity"} if ask.streamed else {}
        if ask.body is not None:
            headers["Content-Type"] = "application/json"
        key = self.settings.secret.reveal()
        if key:
            headers["Authorization"] = f"Bearer {key}"
        return headers

    def _error(self, error: Exception, path: str) -> NbruntimeError:
        settings, reason = self.settings, _reason(error)
        match error:
            case aiohttp.ConnectionTimeoutError():
                return transport_errors.no_connection_in_time(settings, path)
            case TimeoutError():
                return transport_errors.no_answer_in_time(settings, path)
            case aiohttp.ClientSSLError():
                return transport_errors.certificate_refused(settings, path, reason)
            case aiohttp.ClientProxyConnectionError() | aiohttp.ClientHttpProxyError():
                return transport_errors.proxy_refused(settings, path, reason)
            case aiohttp.ClientConnectorError():
                return transport_errors.no_answer(settings, path, reason, sent=False)
            case aiohttp.InvalidURL() | UnicodeError():
                return transport_errors.not_http(settings, path)
            case _:
                return transport_errors.no_answer(settings, path, reason, sent=True)


class AsyncBody(AsyncIterator[bytes]):
    """The body of a streamed answer, in the pieces in which it arrives.

    Parameters
    ----------
    settings : Settings
        Whose answer it is.
    response : aiohttp.ClientResponse
        Closed by `close`.
    path : str
        The route, for errors.
    """

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
        return transport_errors.broken_off(self._settings, self._path, _reason(error))

    async def close(self) -> None:
        """Close the answer; its connection is kept when the answer is at its end."""
        if self._tail.endswith(LAST_EVENT):
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                await asyncio.wait_for(self._response.content.readany(), CLOSED_AT_ONCE)
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()

    def cut(self) -> None:
        """End the connection from any thread, also when its loop has ended."""
        connection = self._response.connection
        transport = None if connection is None else connection.transport
        wire = None if transport is None else transport.get_extra_info("socket")
        if wire is not None:  # TLS has none as soon as the connection is lost
            with contextlib.suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._response.close)


def _abort_blocking(settings: Settings, rids: Sequence[str]) -> None:
    transport = Transport(settings)
    try:
        transport.abort(rids)
    except NbruntimeError as error:
        _log.debug("abort of %s: %s", rids, error)
    finally:
        transport.close()


async def _hear_of_ends() -> None:
    """Have the loop notice which idle connections the server has closed: a generation is never sent twice."""
    await asyncio.sleep(0)  # the loop looks at its sockets
    await asyncio.sleep(0)  # and after this one it has read them


def _unread(content: aiohttp.StreamReader) -> bytes:
    """Take what came before an error: aiohttp gives the error first, and never the rest."""
    take = getattr(content, "_read_nowait", None)
    return b"" if take is None else bytes(take(-1))


def _end_with_connection(response: aiohttp.ClientResponse) -> None:
    """Have the reader of an answer know that its connection is gone.

    aiohttp closes a connection that does not keep to HTTP, and may leave the reader waiting for ever.
    """
    protocol = None if response.connection is None else response.connection.protocol
    if protocol is None:
        return  # the answer is whole already
    content = response.content

    def lost(closed: asyncio.Future[None] | None) -> None:
        if closed is not None and not closed.cancelled():
            closed.exception()  # the reader gets it elsewhere
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the answer does not keep to HTTP"))

    closed: asyncio.Future[None] | None = getattr(protocol, "closed", None)
    if closed is None:
        lost(None)
    else:
        closed.add_done_callback(lost)


_Rooms = dict[asyncio.AbstractEventLoop, _LoopSession]


def _close_all(rooms: _Rooms) -> None:
    """Close the sessions of a transport that is forgotten: no task is left that cleans up."""
    for loop in list(rooms):
        try:
            loop.call_soon_threadsafe(_close_at_once, rooms, loop)
        except RuntimeError:  # the loop is closed
            _close_at_once(rooms, loop)


def _close_at_once(rooms: _Rooms, loop: asyncio.AbstractEventLoop) -> None:
    """Close a session without waiting until its connections have ended; a loop that ends does not either."""
    if room := rooms.pop(loop, None):
        closing = room.session.close()
        with contextlib.suppress(StopIteration):
            closing.send(None)
        closing.close()


def _close_elsewhere(rooms: _Rooms, loop: asyncio.AbstractEventLoop) -> None:
    """Close a session from outside of its loop."""
    if loop.is_closed():
        _close_at_once(rooms, loop)
    else:
        asyncio.run_coroutine_threadsafe(_close_room(rooms, loop), loop)


async def _close_room(rooms: _Rooms, loop: asyncio.AbstractEventLoop) -> None:
    if loop in rooms and rooms[loop].tasks:
        await asyncio.wait(rooms[loop].tasks, timeout=CLOSING_PATIENCE)
    if room := rooms.pop(loop, None):
        await room.session.close()


def _reason(error: BaseException) -> str:
    """Find the words of the error that aiohttp has wrapped."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server closed the connection"  # its own words may be a whole head of an answer
    inner = getattr(error, "os_error", None) or getattr(error, "certificate_error", None)
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return str(inner or error) or type(error).__name__
