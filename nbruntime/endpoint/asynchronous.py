"""The same client for callers with an event loop, over aiohttp.

`AsyncTransport` is what `nbruntime.endpoint.transport.Transport` is to the blocking client; both share the
request builder, the decoder and the errors. `stream_text` and `read_server_info` are what
``Runtime.async_generate`` and ``Runtime.get_server_info`` stand on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import aiohttp

from nbruntime.endpoint.address import is_loopback
from nbruntime.endpoint.secret import Secret
from nbruntime.endpoint.transport import ABORT_TIMEOUTS, CLOSED_AT_ONCE, INFO_TIMEOUT, encode
from nbruntime.errors import (
    ArgumentValueError,
    NbruntimeError,
    NotServedError,
    ProtocolError,
    ServerConnectionError,
    ServerTimeoutError,
)
from nbruntime.generation import AsyncGenerationStream
from nbruntime.protocol.events import LAST_EVENT
from nbruntime.protocol.failures import error_of_response
from nbruntime.protocol.requests import GenerateRequest, Prompt, build_generate_request

if TYPE_CHECKING:
    from nbruntime.endpoint.runtime_endpoint import RuntimeEndpoint


class AsyncTransport:
    """Send requests to one server from one event loop; an async context manager.

    Parameters
    ----------
    base_url, secret, verify, connect_timeout, read_timeout
        As in `nbruntime.endpoint.transport.Transport`.
    """

    def __init__(
        self,
        base_url: str,
        secret: Secret,
        verify: str | bool | None = None,
        *,
        connect_timeout: float | None,
        read_timeout: float | None,
    ) -> None:
        self.base_url = base_url
        self.secret = secret
        self.verify = verify
        self.connect_timeout = connect_timeout
        self.read_timeout = read_timeout
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def beside(cls, endpoint: RuntimeEndpoint) -> AsyncTransport:
        """Make one with the settings of a blocking endpoint."""
        settings = endpoint.settings
        return cls(
            settings.base_url,
            settings.secret,
            settings.verify,
            connect_timeout=settings.connect_timeout,
            read_timeout=settings.read_timeout,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # No limit of its own: how many requests run at once is the caller's choice.
                connector=aiohttp.TCPConnector(limit=0, ssl=self._certificates()),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "nbruntime"},
                trust_env=not is_loopback(self.base_url),
                read_bufsize=2**18,
            )
        return self._session

    def _certificates(self) -> ssl.SSLContext | bool:
        if self.verify is None or isinstance(self.verify, bool):
            return self.verify is not False
        try:
            if os.path.isdir(self.verify):
                return ssl.create_default_context(capath=self.verify)
            return ssl.create_default_context(cafile=self.verify)
        except OSError as error:
            raise ServerConnectionError(
                "The certificates to check the server by cannot be read",
                where=f"verify={self.verify!r}",
                hint="Give the path of an existing file or folder.",
            ) from error

    def url(self, path: str) -> str:
        """Give the whole address of a route."""
        return self.base_url + path

    async def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        connect_timeout: float | None = None,
        read_timeout: float | None = None,
    ) -> aiohttp.ClientResponse:
        """Send one request and wait for the head of its answer.

        Parameters
        ----------
        method, path : str
            ``"POST"`` and ``"/generate"``, for example.
        body : object, optional
            Sent as JSON.
        connect_timeout, read_timeout : float, optional
            Instead of the transport's own.

        Returns
        -------
        aiohttp.ClientResponse
            With a status below 300; the caller reads and closes it.

        Raises
        ------
        NbruntimeError
            Of the class that fits what went wrong.
        """
        headers = {"Accept-Encoding": "identity"}
        key = self.secret.reveal()
        if key:
            headers["Authorization"] = f"Bearer {key}"
        data = None
        if body is not None:
            data = encode(body)
            headers["Content-Type"] = "application/json"
        timeout = aiohttp.ClientTimeout(
            total=None,
            sock_connect=self.connect_timeout if connect_timeout is None else connect_timeout,
            sock_read=self.read_timeout if read_timeout is None else read_timeout,
        )
        try:
            response = await self._open_session().request(
                method, self.url(path), data=data, headers=headers, timeout=timeout, allow_redirects=False
            )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise self.error(error, path) from error
        if response.status >= 300:
            async with response:
                raise await self._status_error(response, path)
        return response

    async def _status_error(self, response: aiohttp.ClientResponse, path: str) -> NbruntimeError:
        try:
            body = self.secret.scrub((await response.read()).decode("utf-8", "replace"))
        except (aiohttp.ClientError, TimeoutError):
            body = ""  # the status says enough
        hint = None
        if response.status < 400:
            target = self.secret.scrub(response.headers.get("location", ""))
            hint = f"It redirects to {target}: give the final address as base_url."
        return error_of_response(response.status, body, where=self.url(path), hint=hint)

    def error(self, error: Exception, path: str) -> NbruntimeError:
        """Put an error of aiohttp into the tree of errors."""
        where = self.url(path)
        reason = self.secret.scrub(_reason(error))
        match error:
            case aiohttp.ConnectionTimeoutError():
                return ServerTimeoutError(
                    f"No connection within {self.connect_timeout} s",
                    where=where,
                    hint="Check that the server is running, and that the URL is right.",
                )
            case TimeoutError():
                return ServerTimeoutError("No answer in time", where=where)
            case aiohttp.ClientSSLError():
                return ServerConnectionError(
                    f"The server's certificate is not accepted: {reason}",
                    where=where,
                    hint="Give the file of the certificate authority as verify=...",
                )
            case aiohttp.ClientPayloadError():
                return ServerConnectionError(f"The connection broke: {reason}", where=where)
            case ValueError():
                return ArgumentValueError(
                    f"The request cannot be written as HTTP: {reason}",
                    where=where,
                    hint="Check base_url and api_key.",
                )
            case _:
                return ServerConnectionError(f"No answer from the server: {reason}", where=where)

    async def read_json(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request and read the JSON of its answer."""
        response = await self.send(method, path, body, read_timeout=self.read_timeout)
        async with response:
            try:
                content = await response.read()
            except (aiohttp.ClientError, TimeoutError) as error:
                raise self.error(error, path) from error
        try:
            return json.loads(content)
        except ValueError:
            raise ProtocolError("The answer is not JSON", where=self.url(path)) from None

    async def abort(self, rids: Sequence[str]) -> None:
        """Stop requests on the server by their names."""
        connect, read = ABORT_TIMEOUTS
        for rid in rids:
            response = await self.send(
                "POST", "/abort_request", {"rid": rid}, connect_timeout=connect, read_timeout=read
            )
            response.release()

    async def stream(
        self, request: GenerateRequest, *, cumulative_text: bool = False
    ) -> AsyncGenerationStream:
        """Send a request for a stream.

        Parameters
        ----------
        request : GenerateRequest
            Built with ``stream=True``.
        cumulative_text : bool
            See `nbruntime.protocol.deltas.DeltaDecoder`.

        Returns
        -------
        AsyncGenerationStream
            To be left by ``async with`` or ``close()``.
        """
        started = time.perf_counter()
        try:
            response = await self.send("POST", "/generate", request.body)
        except (ServerTimeoutError, asyncio.CancelledError):
            # Nobody waits any more: stop the generation, if it has begun.
            with contextlib.suppress(NbruntimeError):
                await self.abort(request.rids)
            raise
        kind = response.headers.get("content-type", "")
        if not kind.startswith("text/event-stream"):
            response.close()
            raise ProtocolError(
                f"The answer is not a stream but {kind or 'of no type'}", where=self.url("/generate")
            )
        body = AsyncBody(self, response)
        return AsyncGenerationStream(
            body,
            request,
            close=body.close,
            abort=self.abort,
            where=self.url("/generate"),
            started=started,
            cumulative_text=cumulative_text,
        )


class AsyncBody(AsyncIterator[bytes]):
    """The body of a streamed answer, in the pieces in which it arrives."""

    def __init__(self, transport: AsyncTransport, response: aiohttp.ClientResponse) -> None:
        self._transport = transport
        self._response = response
        self._tail = b""

    async def __anext__(self) -> bytes:
        try:
            piece = await self._response.content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._transport.error(error, "/generate") from error
        if not piece:
            raise StopAsyncIteration
        self._tail = piece[-32:]
        return piece

    async def close(self) -> None:
        """Close the answer; its connection is kept when the answer is at its end."""
        if self._tail.endswith(LAST_EVENT):
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                await asyncio.wait_for(self._response.content.readany(), CLOSED_AT_ONCE)
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


async def stream_text(
    endpoint: RuntimeEndpoint,
    prompt: Prompt,
    *,
    sampling_params: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> AsyncGenerator[str, None]:
    """Generate, and give the text as it comes.

    Leaving the generator in any way, also by cancelling its task, stops the generation on the server.

    Parameters
    ----------
    endpoint : RuntimeEndpoint
        Whose server to ask; only its settings are used.
    prompt : str or list of int
        One prompt.
    sampling_params : mapping, optional
        Sampling parameters by SGLang's names.
    **arguments
        As in `RuntimeEndpoint.stream`.

    Yields
    ------
    str
        New text.
    """
    request = build_generate_request(prompt, sampling_params=sampling_params, stream=True, **arguments)
    async with (
        AsyncTransport.beside(endpoint) as transport,
        await transport.stream(request) as stream,
    ):
        async for text in stream:
            yield text


async def read_server_info(endpoint: RuntimeEndpoint) -> dict[str, Any]:
    """Read the configuration and the state of the server; as `RuntimeEndpoint.get_server_info`."""
    async with AsyncTransport.beside(endpoint) as transport:
        transport.read_timeout = min(transport.read_timeout or INFO_TIMEOUT, INFO_TIMEOUT)
        try:
            info = await transport.read_json("GET", "/server_info")
        except NotServedError:  # SGLang up to 0.5.2
            info = await transport.read_json("GET", "/get_server_info")
    if not isinstance(info, dict):
        raise ProtocolError(
            "The answer does not describe an SGLang server", where=transport.url("/server_info")
        )
    return info


def _reason(error: BaseException) -> str:
    """Find the words of the error that aiohttp has wrapped."""
    inner = getattr(error, "os_error", None) or getattr(error, "certificate_error", None)
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return str(inner or error) or type(error).__name__
