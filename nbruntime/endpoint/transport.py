"""Blocking HTTP with one server, over `requests`."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import socket
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from typing import Any, TypeVar, cast

import requests
import urllib3
import urllib3.exceptions

from nbruntime.endpoint import transport_errors
from nbruntime.endpoint.background_closer import BackgroundCloser
from nbruntime.endpoint.connection_pool import KeepingAdapter
from nbruntime.endpoint.http import Abort, HttpRequest, HttpResponse, Operation, RunInThread, abort
from nbruntime.endpoint.settings import Settings
from nbruntime.endpoint.time_limit import limited, passed_limit
from nbruntime.errors import NbruntimeError, ServerConnectionError, ServerStatusError
from nbruntime.protocol.events import LAST_EVENT

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

ABORTS_AT_ONCE = 16
"""Requests of one batch that are aborted at the same time."""

CLOSED_AT_ONCE = 0.2
"""Seconds to wait for the end of a finished stream, so that its connection can be used again."""


class Transport:
    """Sends requests to one server, and runs operations; many threads may use it at once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._pid = 0
        self._session: requests.Session | None = None
        self._finalizer: weakref.finalize[[], Transport] | None = None
        self.closer = BackgroundCloser()

    @property
    def session(self) -> requests.Session:
        """The session, made at the first request; a fork makes its own, and never shares a connection."""
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
        session.trust_env = False  # .netrc is not used; `Settings` reads proxies and certificates
        # A cookie jar is not safe with threads.
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        session.headers["User-Agent"] = "nbruntime"
        adapter = KeepingAdapter()
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        return session

    def close(self) -> None:
        """Finish what the closer does and close the connections; the next request opens new ones."""
        self.closer.close()
        with self._lock:
            session, self._session = self._session, None
            if self._finalizer is not None:
                self._finalizer.detach()
        if session is not None:
            session.close()

    def run(self, operation: Operation[_T]) -> _T:
        """Run an operation, and return its result."""
        resume = partial(next, operation)
        while True:
            try:
                step = resume()
            except StopIteration as stop:
                return cast(_T, stop.value)
            try:
                resume = partial(operation.send, self._perform(step))
            except BaseException as error:  # noqa: BLE001 (the operation handles it, also an interrupt)
                resume = partial(operation.throw, error)

    def _perform(self, step: HttpRequest | Abort | RunInThread) -> Any:
        if isinstance(step, HttpRequest):
            return self.send(step)
        if isinstance(step, RunInThread):
            return step.function()
        if passed_limit():  # the caller has waited long enough
            self.closer.start()
            self.closer(partial(self._abort_quietly, step.rids))
        else:
            contextvars.Context().run(self._abort_quietly, step.rids)  # without a limit of the caller's
        return None

    def _abort_quietly(self, rids: Sequence[str]) -> None:
        try:
            self.abort(rids)
        except NbruntimeError as error:
            _log.debug("abort of %s: %s", rids, error)

    def abort(self, rids: Sequence[str]) -> None:
        """Abort requests by their rids: the first alone, and if that works the others at once."""
        aborts = [abort(rid) for rid in rids]
        # No thread can be started at the end of a program.
        alone = 1 if threading.main_thread().is_alive() else len(aborts)
        for request in aborts[:alone]:
            self.send(request)
        if aborts[alone:]:
            with ThreadPoolExecutor(ABORTS_AT_ONCE, "nbruntime-abort") as pool:
                sent = [pool.submit(self.send, request) for request in aborts[alone:]]
                try:
                    for each in sent:
                        each.result()
                except ServerStatusError:
                    raise  # the server refused one; the others were sent nevertheless
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise

    def send(self, request: HttpRequest) -> HttpResponse | Body:
        """Send one request and return its answer; of a stream the `Body`, which the caller closes."""
        data = request.data()
        try:
            response = self._request(request, data)
        except ServerConnectionError as error:
            if not (request.safe and error.sent):
                raise
            # The server may just have closed a kept connection.
            response = self._request(request, data)
        self.settings.note_answer()
        if response.status_code >= 300:
            with response:
                raise self.settings.note_error(self._status_error(response, request.path))
        if not request.streamed:
            return HttpResponse(self.settings, request.path, response.content)
        kind = response.headers.get("content-type", "")
        if not kind.startswith("text/event-stream"):
            response.close()
            raise transport_errors.not_a_stream(self.settings, request.path, kind)
        return Body(self.settings, response, request.path)

    def _request(self, request: HttpRequest, data: bytes | None) -> requests.Response:
        proxy = self.settings.proxy
        try:
            response = self.session.request(
                request.method,
                self.settings.url(request.path),
                data=data,
                headers=request.headers(),
                auth=self._authorize,
                timeout=limited(request.timeouts(self.settings)),
                stream=request.streamed,
                verify=self.settings.certificates,
                proxies=None if proxy is None else {"http": proxy, "https": proxy},
                allow_redirects=False,  # the key must not go to another host
            )
        except (OSError, urllib3.exceptions.HTTPError, UnicodeError) as error:
            problem = self._error(error, request.path)  # RequestException is an OSError
        except KeyboardInterrupt as stopped:
            raise stopped.with_traceback(None) from None  # the frames of requests hold the key
        else:
            if not (limit := passed_limit()):
                return response
            response.close()  # it may be cut off
            problem = limit.error(request.path)
        # Not as its cause: the errors and the frames of requests hold the key.
        raise self.settings.note_error(problem)

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        key = self.settings.secret.reveal()
        if key:
            request.headers["Authorization"] = f"Bearer {key}"
        return request

    def _status_error(self, response: requests.Response, path: str) -> NbruntimeError:
        try:
            body = response.text
        except (requests.RequestException, urllib3.exceptions.HTTPError):
            body = ""  # the status says enough
        location = response.headers.get("location", "")
        return transport_errors.bad_status(self.settings, path, response.status_code, body, location)

    def _error(self, error: Exception, path: str) -> NbruntimeError:
        settings, reason = self.settings, _reason(error)
        if limit := passed_limit():
            return limit.error(path, sent=not _unconnected(error))
        match error:
            case UnicodeError():
                return transport_errors.not_http(settings, path)
            case requests.exceptions.ProxyError():
                return transport_errors.proxy_refused(settings, path, reason)
            case requests.exceptions.ConnectTimeout() | urllib3.exceptions.ConnectTimeoutError():
                return transport_errors.no_connection_in_time(settings, path)
            case _ if _timed_out(error):
                return transport_errors.no_answer_in_time(settings, path)
            case requests.exceptions.SSLError():
                return transport_errors.certificate_refused(settings, path, reason)
            case OSError() if "certificate" in str(error) and settings.verify:
                return transport_errors.certificates_unreadable(settings.verify)
            case _:
                return transport_errors.no_answer(settings, path, reason, sent=not _unconnected(error))


class Body(Iterator[bytes]):
    """The body of a streamed answer, in the pieces in which it arrives; `path` is the route, for errors."""

    def __init__(self, settings: Settings, response: requests.Response, path: str) -> None:
        self._settings = settings
        self._response = response
        self._path = path
        self._tail = b""
        self._raw: Any = response.raw
        # Taken from urllib3, which returns the connection to the pool when the answer ends or fails: another
        # thread that closes the answer would close a connection that serves the next request.
        self._connection: Any = self._raw._connection
        self._raw._connection = None
        self._socket = _socket_of(self._raw)
        self._pieces = _pieces(self._raw)

    def __next__(self) -> bytes:
        try:
            piece = next(self._pieces)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            # ValueError and AttributeError: another thread has closed the response.
            problem = self._error(error)
        else:
            self._tail = piece[-32:]
            return piece
        raise problem

    def _error(self, error: Exception) -> NbruntimeError:
        if _timed_out(error):
            return transport_errors.no_more_in_time(self._settings, self._path)
        return transport_errors.broken_off(self._settings, self._path, _reason(error))

    def close(self) -> None:
        """Close the answer, from any thread; keep its connection if the answer is complete."""
        if self._connection is None:
            return
        kept = self._tail.endswith(LAST_EVENT) and self._read_end()
        if not kept:
            self._wake_reader()
        self._response.close()
        connection, self._connection = self._connection, None
        if kept:
            self._raw._pool._put_conn(connection)
        else:
            connection.close()

    def _read_end(self) -> bool:
        """Read on after the last event; return whether the answer ends there and its end has arrived."""
        if self._connection.sock is None:
            return False  # the answer ends with its connection
        self._tail = b""  # only once: an interrupt may leave half of the end unread
        try:
            self._connection.sock.settimeout(CLOSED_AT_ONCE)
            return not _has_more(self._raw) and next(self._pieces, None) is None
        except (urllib3.exceptions.HTTPError, OSError, ValueError):
            return False

    def _wake_reader(self) -> None:
        """Wake a thread that is reading the answer: closing would wait for it."""
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it is closed already
                # Not SSLSocket's own method: after it the reader would take encrypted bytes for text.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def _socket_of(raw: Any) -> socket.socket | None:
    """Find the socket of an answer; an answer that ends with its connection has taken it from there."""
    found = getattr(getattr(getattr(raw._fp, "fp", None), "raw", None), "_sock", None)
    return found if isinstance(found, socket.socket) else None


def _has_more(raw: Any) -> bool:
    """Whether more than the end of the answer has arrived: then its connection cannot be used again."""
    received = getattr(getattr(raw, "_fp", None), "fp", None)
    return received is not None and len(received.peek()) > len(_LAST_CHUNK)


_LAST_CHUNK = b"0\r\n\r\n"


def _pieces(raw: Any) -> Iterator[bytes]:
    """Read a body as it arrives, chunked or not."""
    if raw.chunked and raw.supports_chunked_reads():
        yield from raw.read_chunked(None, decode_content=True)
        return
    if hasattr(raw, "read1"):
        while piece := raw.read1(65536, decode_content=True):
            yield piece
        return
    # urllib3 before 2.1 waits for the whole length that is asked for.
    while (received := raw._fp.fp) is not None:
        yield raw.read(len(received.peek()) or 1, decode_content=True)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Go from an error to its causes, through the wrappers of requests and urllib3."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        inner = getattr(error, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((item for item in error.args if isinstance(item, BaseException)), None)
        error = inner or error.__cause__ or error.__context__


def _unconnected(error: BaseException | None) -> bool:
    return any(isinstance(item, urllib3.exceptions.NewConnectionError) for item in _chain(error))


def _timed_out(error: BaseException | None) -> bool:
    # requests raises a ConnectionError when an answer stops in its middle.
    return any(isinstance(item, urllib3.exceptions.ReadTimeoutError | TimeoutError) for item in _chain(error))


def _reason(error: BaseException) -> str:
    """Return the message of the innermost error."""
    innermost: BaseException = error
    for item in _chain(error):
        # The wrapper of a ValueError (not HTTP) explains more; our own errors are of an earlier attempt.
        if isinstance(item, ValueError | NbruntimeError):
            break
        innermost = item
    if isinstance(innermost, OSError) and innermost.strerror:
        return innermost.strerror
    return str(innermost) or type(innermost).__name__
