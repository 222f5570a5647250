"""HTTP with one server: connections, key, time-outs, and errors of one tree."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import weakref
from collections.abc import Iterator
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
import requests.adapters
import urllib3
import urllib3.exceptions

from nbruntime.endpoint.address import is_loopback
from nbruntime.endpoint.secret import Secret
from nbruntime.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    NbruntimeError,
    ProtocolError,
    ServerConnectionError,
    ServerStatusError,
    ServerTimeoutError,
)
from nbruntime.protocol.events import LAST_EVENT
from nbruntime.protocol.failures import error_of_response

INFO_TIMEOUT = 60.0
"""Seconds for an answer that needs no model."""

ABORT_TIMEOUTS = (2.0, 5.0)
"""Seconds to connect and to wait for the answer to an abort: somebody has just pressed stop."""

POOL_SIZE = 128
"""Connections that are kept open; SGLang's frontend language calls from up to 96 threads and more."""

CLOSED_AT_ONCE = 0.2
"""Seconds that the end of a finished stream may take, so that its connection can serve again."""


class Transport:
    """Send requests to one server.

    Parameters
    ----------
    base_url : str
        The server.
    secret : Secret
        Its API key.
    verify : str, bool or None
        File or folder of certificates to check the server by; None for the usual ones.
    connect_timeout : float or None
        Seconds to wait for a connection.
    read_timeout : float or None
        Seconds to wait for the next bytes of an answer.

    Notes
    -----
    The session is made at the first request, once per process, so that a fork never shares a connection.
    It may be used by many threads at once.
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
        self.last_answer: float | None = None  # time.monotonic
        self.last_error: NbruntimeError | None = None
        self._lock = threading.Lock()
        self._pid = 0
        self._session: requests.Session | None = None
        self._finalizer: weakref.finalize[[], Transport] | None = None

    @property
    def session(self) -> requests.Session:
        """The session of this process."""
        if self._session is not None and self._pid == os.getpid():
            return self._session
        if self._pid not in (0, os.getpid()):
            self._lock = threading.Lock()  # after a fork: another thread may have held it
        with self._lock:
            if self._session is None or self._pid != os.getpid():
                self._session = self._open_session()
                self._pid = os.getpid()
                self._finalizer = weakref.finalize(self, self._session.close)
            return self._session

    def _open_session(self) -> requests.Session:
        session = requests.Session()
        # Proxies, .netrc and certificates of the environment are for servers elsewhere.
        session.trust_env = not is_loopback(self.base_url)
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # a jar is not for many threads
        session.headers["User-Agent"] = "nbruntime"
        adapter = requests.adapters.HTTPAdapter(pool_connections=4, pool_maxsize=POOL_SIZE, max_retries=0)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        return session

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        with self._lock:
            session, self._session = self._session, None
            if self._finalizer is not None:
                self._finalizer.detach()
        if session is not None:
            session.close()

    def __getstate__(self) -> dict[str, Any]:
        lost = {"_lock", "_session", "_finalizer", "_pid", "last_answer", "last_error"}
        return {name: value for name, value in vars(self).items() if name not in lost}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # the attributes are named as the arguments

    def url(self, path: str) -> str:
        """Give the whole address of a route."""
        return self.base_url + path

    def get(self, path: str, *, read_timeout: float | None = None) -> requests.Response:
        """Read a route that has no effects; once more if a kept connection turns out to be closed."""
        try:
            return self.send("GET", path, read_timeout=read_timeout)
        except ServerConnectionError as error:
            if _refused(error.__cause__):
                raise
            return self.send("GET", path, read_timeout=read_timeout)

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        stream: bool = False,
        connect_timeout: float | None = None,
        read_timeout: float | None = None,
    ) -> requests.Response:
        """Send one request and wait for its answer.

        Parameters
        ----------
        method, path : str
            ``"POST"`` and ``"/generate"``, for example.
        body : object, optional
            Sent as JSON.
        stream : bool
            Return when the head of the answer is there; the caller then closes the response.
        connect_timeout, read_timeout : float, optional
            Instead of the transport's own.

        Returns
        -------
        requests.Response
            With a status below 300.

        Raises
        ------
        NbruntimeError
            Of the class that fits what went wrong.
        """
        headers = {"Accept-Encoding": "identity"} if stream else {}
        data = None
        if body is not None:
            data = encode(body)
            headers["Content-Type"] = "application/json"
        try:
            response = self.session.request(
                method,
                self.url(path),
                data=data,
                headers=headers,
                auth=self._authorize,
                timeout=(
                    self.connect_timeout if connect_timeout is None else connect_timeout,
                    self.read_timeout if read_timeout is None else read_timeout,
                ),
                stream=stream,
                verify=True if self.verify is None else self.verify,
                allow_redirects=False,  # the key must not go to another host
            )
        except (
            OSError,
            urllib3.exceptions.HTTPError,
            UnicodeError,
        ) as error:  # RequestException is an OSError
            raise self._note(self._error(error, path)) from error
        self.last_answer, self.last_error = time.monotonic(), None
        if response.status_code >= 300:
            with response:
                raise self._note(self._status_error(response, path))
        return response

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        key = self.secret.reveal()
        if key:
            request.headers["Authorization"] = f"Bearer {key}"
        return request

    def json(self, response: requests.Response) -> Any:
        """Read the JSON of an answer."""
        try:
            return json.loads(response.content)
        except ValueError:
            excerpt = response.content[:80].decode("utf-8", "replace")
            raise ProtocolError(
                f"The answer is not JSON: {self.secret.scrub(excerpt)!r}", where=response.url
            ) from None

    def _note(self, error: NbruntimeError) -> NbruntimeError:
        self.last_error = error
        return error

    def _status_error(self, response: requests.Response, path: str) -> ServerStatusError:
        try:
            body = self.secret.scrub(response.text)
        except (requests.RequestException, urllib3.exceptions.HTTPError):
            body = ""  # the status says enough
        hint = None
        if response.is_redirect:
            target = response.headers.get("location", "")
            hint = f"It redirects to {self.secret.scrub(target)}: give the final address as base_url."
        return error_of_response(response.status_code, body, where=self.url(path), hint=hint)

    def _error(self, error: Exception, path: str) -> NbruntimeError:
        where = self.url(path)
        reason = self.secret.scrub(_reason(error))
        match error:
            case UnicodeError():
                return ArgumentValueError(
                    "The request cannot be written as HTTP: a host or key has characters that it cannot have",
                    where=where,
                    hint="Check base_url and api_key.",
                )
            case requests.exceptions.InvalidHeader():
                return ArgumentValueError(
                    "The key cannot stand in a header", where="api_key", hint="Check it for line ends."
                )
            case requests.exceptions.ConnectTimeout() | urllib3.exceptions.ConnectTimeoutError():
                return ServerTimeoutError(
                    f"No connection within {self.connect_timeout} s",
                    where=where,
                    hint="Check that the server is running, and that the URL is right.",
                )
            case _ if _timed_out(error):
                return ServerTimeoutError("No answer in time", where=where)
            case requests.exceptions.SSLError():
                return ServerConnectionError(
                    f"The server's certificate is not accepted: {reason}",
                    where=where,
                    hint="Give the file of the certificate authority as verify=...",
                )
            case requests.exceptions.ProxyError():
                return ServerConnectionError(
                    f"The proxy does not connect: {reason}",
                    where=where,
                    hint="Put the server's host into the environment variable NO_PROXY if it needs no proxy.",
                )
            case OSError() if "certificate" in str(error) and self.verify:
                return ServerConnectionError(
                    "The certificates to check the server by cannot be read",
                    where=f"verify={self.verify!r}",
                    hint="Give the path of an existing file or folder.",
                )
            case _:
                return ServerConnectionError(f"No answer from the server: {reason}", where=where)

    def error_in_body(self, error: Exception, path: str) -> NbruntimeError:
        """Make the error for an answer that breaks off."""
        if _timed_out(error):
            return ServerTimeoutError("Nothing more came in time", where=self.url(path))
        return ServerConnectionError(
            f"the connection broke: {self.secret.scrub(_reason(error))}", where=self.url(path)
        )


class Body(Iterator[bytes]):
    """The body of a streamed answer, in the pieces in which it arrives.

    Parameters
    ----------
    transport : Transport
        Whose answer it is.
    response : requests.Response
        Opened with ``stream=True``; closed by `close`.
    path : str
        The route, for errors.
    """

    def __init__(self, transport: Transport, response: requests.Response, path: str) -> None:
        self._transport = transport
        self._response = response
        self._path = path
        self._tail = b""
        self._pieces = _pieces(response.raw)

    def __next__(self) -> bytes:
        try:
            piece = next(self._pieces)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            # ValueError and AttributeError: another thread has closed the response.
            raise self._transport.error_in_body(error, self._path) from error
        self._tail = piece[-32:]
        return piece

    def close(self) -> None:
        """Close the answer; its connection is kept when the answer is at its end."""
        raw = self._response.raw
        if self._tail.endswith(LAST_EVENT):
            self._read_end(raw)
        else:
            # Wakes another thread that is reading; older urllib3 cannot, or it is closed already.
            with contextlib.suppress(AttributeError, RuntimeError, ValueError, OSError):
                raw.shutdown()
        self._response.close()

    def _read_end(self, raw: Any) -> None:
        connection = getattr(raw, "connection", None)
        if connection is None or getattr(connection, "sock", None) is None:
            return
        try:
            connection.sock.settimeout(CLOSED_AT_ONCE)
            next(self._pieces, None)
        except (urllib3.exceptions.HTTPError, OSError, ValueError):
            return  # it is closed instead


def encode(body: Any) -> bytes:
    """Write the JSON of a request: UTF-8, without NaN, which is not JSON."""
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except TypeError as error:
        raise ArgumentTypeError(
            f"The request cannot be written as JSON: {error}", hint="Give plain Python values."
        ) from None
    except ValueError as error:  # also of the encoding: half a surrogate pair
        raise ArgumentValueError(
            f"The request cannot be written as JSON: {error}",
            hint="Take out NaN, infinity and broken characters.",
        ) from None


def _pieces(raw: Any) -> Iterator[bytes]:
    """Read a body as it comes, however it is sent."""
    if raw.chunked and raw.supports_chunked_reads():
        yield from raw.read_chunked(None, decode_content=True)
        return
    read = getattr(raw, "read1", None) or raw.read
    while piece := read(65536):
        yield piece


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Walk from an error to what it stands for, through the wrappers of requests and urllib3."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        inner = getattr(error, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((item for item in error.args if isinstance(item, BaseException)), None)
        error = inner or error.__cause__ or error.__context__


def _refused(error: BaseException | None) -> bool:
    return any(isinstance(item, urllib3.exceptions.NewConnectionError) for item in _chain(error))


def _timed_out(error: BaseException) -> bool:
    # An answer that stops in its middle is a ConnectionError to requests.
    return any(isinstance(item, urllib3.exceptions.ReadTimeoutError | TimeoutError) for item in _chain(error))


def _reason(error: BaseException) -> str:
    """Find the words of the innermost error, without the wrappers' own."""
    innermost: BaseException = error
    for item in _chain(error):
        innermost = item
    if isinstance(innermost, OSError) and innermost.strerror:
        return innermost.strerror
    return str(innermost) or type(innermost).__name__
