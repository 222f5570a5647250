"""HTTP with one server in an event loop, over aiohttp."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import weakref
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import aiohttp

from nbruntime.endpoint import transport_errors
from nbruntime.endpoint.async_body import AsyncBody, end_with_connection, reason_of
from nbruntime.endpoint.background_closer import BackgroundCloser
from nbruntime.endpoint.connection_pool import KEPT_SECONDS
from nbruntime.endpoint.http import Abort, HttpRequest, HttpResponse, Operation, RunInThread, abort
from nbruntime.endpoint.loop_sessions import LoopSession, LoopSessions
from nbruntime.endpoint.settings import Settings
from nbruntime.endpoint.transport import ABORTS_AT_ONCE, Transport
from nbruntime.errors import NbruntimeError, ServerConnectionError
from nbruntime.generation.async_stream import CANCELLED_PATIENCE

_log = logging.getLogger(__name__)

_T = TypeVar("_T")


class AsyncTransport:
    """Sends requests to one server, and runs operations; `abandon` needs a started `closer`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.closer = BackgroundCloser()
        self._sessions = LoopSessions()
        weakref.finalize(self, self._sessions.close_unused)

    @property
    def _loop_session(self) -> LoopSession:
        """The session of the running event loop, made at its first request."""
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None:
            self._sessions.remove_closed_loops()
            session = self._sessions[loop] = LoopSession(self._open_session())
        return session

    def _open_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            # The caller decides how many requests run at once.
            connector=aiohttp.TCPConnector(limit=0, ssl=self._certificates(), keepalive_timeout=KEPT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # .netrc is not used; `Settings.proxy` reads the proxies
            read_bufsize=2**18,
        )

    def _certificates(self) -> ssl.SSLContext | bool:
        verify = self.settings.certificates
        if isinstance(verify, bool):
            return verify
        try:
            if os.path.isdir(verify):
                return ssl.create_default_context(capath=verify)
            return ssl.create_default_context(cafile=verify)
        except OSError as error:
            raise self.settings.note_error(transport_errors.certificates_unreadable(verify)) from error

    async def close(self) -> None:
        """Wait for clean-up tasks and close the connections; the next request opens new ones."""
        await self._sessions.close_all()
        self.closer.close(timeout=0)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a clean-up task, and keep a reference to it until it is done."""
        tasks = self._loop_session.tasks
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    async def run(self, operation: Operation[_T]) -> _T:
        """Run an operation, and return its result."""
        resume = partial(next, operation)
        while True:
            try:
                step = resume()
            except StopIteration as stop:
                return cast(_T, stop.value)
            try:
                resume = partial(operation.send, await self._perform(step))
            except BaseException as error:  # noqa: BLE001 (the operation handles it, also a cancellation)
                resume = partial(operation.throw, error)

    async def _perform(self, step: HttpRequest | Abort | RunInThread) -> Any:
        if isinstance(step, HttpRequest):
            return await self.send(step)
        if isinstance(step, RunInThread):
            return await asyncio.to_thread(step.function)
        # In its own task: the current one was cancelled, and must not wait long.
        await asyncio.wait([self.spawn(self._abort_quietly(step.rids))], timeout=CANCELLED_PATIENCE)
        return None

    async def _abort_quietly(self, rids: Sequence[str]) -> None:
        try:
            await self.abort(rids)
        except NbruntimeError as error:
            _log.debug("abort of %s: %s", rids, error)
        except asyncio.CancelledError:  # the loop ends
            self.closer.start()
            self.closer(partial(_abort_blocking, self.settings, rids))
            raise

    async def abort(self, rids: Sequence[str]) -> None:
        """Abort requests by their rids: the first alone, and if that works the others at once."""
        for rid in rids[:1]:
            await self.send(abort(rid))
        together = asyncio.Semaphore(ABORTS_AT_ONCE)

        async def stop(rid: str) -> None:
            async with together:
                await self.send(abort(rid))

        await asyncio.gather(*map(stop, rids[1:]))

    def abandon(self, body: AsyncBody, rids: Sequence[str]) -> None:
        """Close an answer and abort its requests from any thread, without an event loop or waiting."""
        body.cut()
        if rids:
            self.closer(partial(_abort_blocking, self.settings, rids))

    async def send(self, request: HttpRequest) -> HttpResponse | AsyncBody:
        """Send one request and return its answer; of a stream the `AsyncBody`, which the caller closes."""
        data = request.data()
        try:
            response, content = await self._request(request, data)
        except ServerConnectionError as error:
            if not (request.safe and error.sent):
                raise
            # The server may just have closed a kept connection.
            response, content = await self._request(request, data)
        if response.status >= 300:
            location = response.headers.get("location", "")
            text = content.decode("utf-8", "replace")
            raise self.settings.note_error(
                transport_errors.bad_status(self.settings, request.path, response.status, text, location)
            )
        if not request.streamed:
            return HttpResponse(self.settings, request.path, content)
        kind = response.headers.get("content-type", "")
        if not kind.startswith("text/event-stream"):
            response.close()
            raise transport_errors.not_a_stream(self.settings, request.path, kind)
        return AsyncBody(self.settings, response, request.path)

    async def _request(
        self, request: HttpRequest, data: bytes | None
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        """Send a request once, and read the whole answer unless it is a stream."""
        connect, read = request.timeouts(self.settings)
        content = b""
        session = self._loop_session.session
        if not request.safe:
            await _notice_closed_connections()
        try:
            response = await session.request(
                request.method,
                self.settings.url(request.path),
                data=data,
                headers=request.headers(self.settings),
                timeout=aiohttp.ClientTimeout(total=None, connect=connect, sock_read=read),
                proxy=self.settings.proxy,
                allow_redirects=False,  # the key must not go to another host
            )
            self.settings.note_answer()
            end_with_connection(response)
            if response.status >= 300 or not request.streamed:
                async with response:
                    content = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            # In a thread: `Settings.diagnose` may wait a moment.
            problem = await asyncio.to_thread(self._error, error, request.path)
        except asyncio.CancelledError as stopped:
            raise stopped.with_traceback(None) from None  # aiohttp's frames hold the key
        else:
            return response, content
        # Not as its cause: aiohttp's errors and frames hold the key.
        raise self.settings.note_error(problem)

    def _error(self, error: Exception, path: str) -> NbruntimeError:
        settings, reason = self.settings, reason_of(error)
        match error:
            case aiohttp.ClientHttpProxyError():  # its text holds the proxy's password
                return transport_errors.proxy_refused(settings, path, f"{error.status} {error.message}")
            case aiohttp.ClientConnectorError() if error.host == urlsplit(settings.proxy or "").hostname:
                return transport_errors.proxy_refused(settings, path, reason)
            case aiohttp.ConnectionTimeoutError():
                return transport_errors.no_connection_in_time(settings, path)
            case TimeoutError():
                return transport_errors.no_answer_in_time(settings, path)
            case aiohttp.ClientSSLError():
                return transport_errors.certificate_refused(settings, path, reason)
            case aiohttp.ClientConnectorError():
                return transport_errors.no_answer(settings, path, reason, sent=False)
            case aiohttp.InvalidURL() | UnicodeError():
                return transport_errors.not_http(settings, path)
            case _:
                return transport_errors.no_answer(settings, path, reason, sent=True)


def _abort_blocking(settings: Settings, rids: Sequence[str]) -> None:
    transport = Transport(settings)
    try:
        transport.abort(rids)
    except NbruntimeError as error:
        _log.debug("abort of %s: %s", rids, error)
    finally:
        transport.close()


async def _notice_closed_connections() -> None:
    """Let the loop notice idle connections that the server has closed: a generation is never sent twice."""
    await asyncio.sleep(0)  # the loop looks at its sockets
    await asyncio.sleep(0)  # and after this one it has read them
