"""Blocking HTTP with one server, over `requests`."""

from __future__ import annotations

import contextvars
import logging
import os
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar, cast

import requests
import urllib3
import urllib3.exceptions

from nbruntime.endpoint import transport_errors
from nbruntime.endpoint.background_closer import BackgroundCloser
from nbruntime.endpoint.body import Body
from nbruntime.endpoint.causes import reason_of, timed_out, unconnected
from nbruntime.endpoint.connection_pool import KeepingAdapter
from nbruntime.endpoint.http import Abort, HttpRequest, HttpResponse, Operation, RunInThread, abort
from nbruntime.endpoint.settings import Settings
from nbruntime.endpoint.time_limit import limited, passed_limit
from nbruntime.errors import NbruntimeError, ServerConnectionError, ServerStatusError

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

ABORTS_AT_ONCE = 16
"""Requests of one batch that are aborted at the same time."""


class Transport:
    """Sends requests to one server, and runs operations; many threads may use it at once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._pid = 0
        self._adapter: KeepingAdapter | None = None
        self._finalizer: weakref.finalize[[], Transport] | None = None
        self.closer = BackgroundCloser()

    @property
    def adapter(self) -> KeepingAdapter:
        """The connections, made at the first request; a fork makes its own, and never shares one."""
        if self._adapter is not None and self._pid == os.getpid():
            return self._adapter
        if self._pid not in (0, os.getpid()):
            self._lock = threading.Lock()  # after a fork: another thread may have held it
        with self._lock:
            if self._adapter is None or self._pid != os.getpid():
                self._adapter = KeepingAdapter()
                self._pid = os.getpid()
                self._finalizer = weakref.finalize(self, self._adapter.close)
            return self._adapter

    def close(self) -> None:
        """Finish what the closer does and close the connections; the next request opens new ones."""
        self.closer.close()
        with self._lock:
            adapter, self._adapter = self._adapter, None
            if self._finalizer is not None:
                self._finalizer.detach()
        if adapter is not None:
            adapter.close()

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
            prepared = requests.PreparedRequest()
            prepared.prepare(
                request.method, self.settings.url(request.path), request.headers(self.settings), data=data
            )
            # Without a session of requests, which would add cookies, .netrc and redirects to other hosts.
            response = self.adapter.send(
                prepared,
                stream=request.streamed,
                timeout=cast("tuple[float, float]", limited(request.timeouts(self.settings))),  # or None
                verify=self.settings.certificates,
                proxies=None if proxy is None else {"http": proxy, "https": proxy},
            )
            if not request.streamed:
                _ = response.content  # read it here, where its errors are handled
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

    def _status_error(self, response: requests.Response, path: str) -> NbruntimeError:
        try:
            body = response.text
        except (requests.RequestException, urllib3.exceptions.HTTPError):
            body = ""  # the status says enough
        location = response.headers.get("location", "")
        return transport_errors.bad_status(self.settings, path, response.status_code, body, location)

    def _error(self, error: Exception, path: str) -> NbruntimeError:
        settings, reason = self.settings, reason_of(error)
        if limit := passed_limit():
            return limit.error(path, sent=not unconnected(error))
        match error:
            case UnicodeError():
                return transport_errors.not_http(settings, path)
            case requests.exceptions.ProxyError():
                return transport_errors.proxy_refused(settings, path, reason)
            case requests.exceptions.ConnectTimeout() | urllib3.exceptions.ConnectTimeoutError():
                return transport_errors.no_connection_in_time(settings, path)
            case _ if timed_out(error):
                return transport_errors.no_answer_in_time(settings, path)
            case requests.exceptions.SSLError():
                return transport_errors.certificate_refused(settings, path, reason)
            case OSError() if "certificate" in str(error) and settings.verify:
                return transport_errors.certificates_unreadable(settings.verify)
            case _:
                return transport_errors.no_answer(settings, path, reason, sent=not unconnected(error))
