"""The time that a whole request may take: the `timeout` of a generation, in both clients.

The time-outs of sockets begin anew with every byte. So a timer wakes the thread that waits for the server,
and in an event loop the waiting task is cancelled. A stream that was opened in time has the rest of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

from nbruntime.endpoint.base_client import checked_seconds
from nbruntime.endpoint.settings import Settings
from nbruntime.endpoint.transport_errors import took_too_long
from nbruntime.errors import NbruntimeError
from nbruntime.generation import AsyncGenerationStream, GenerationStream

_T = TypeVar("_T")


class TimeLimit:
    """The time of a request of the blocking client: a timer in a thread of its own, until `end`."""

    def __init__(self, seconds: float, settings: Settings) -> None:
        self.kept = False  # by a stream, which ends it
        self._seconds = seconds
        self._settings = settings
        self._until = time.monotonic() + seconds
        self._lock = threading.RLock()
        self._rung = False
        self._wake: Callable[[], None] | None = None
        self._timer = threading.Timer(seconds, self._ring)
        self._timer.name = "nbruntime-timeout"
        self._timer.daemon = True
        self._timer.start()

    @property
    def remaining(self) -> float:
        """Seconds that are left; 0 when the time has passed."""
        return 0.0 if self._rung else max(0.0, self._until - time.monotonic())

    def error(self, path: str, *, sent: bool = True) -> NbruntimeError:
        """Make the error of a request to a route that has taken longer."""
        return took_too_long(self._settings, path, self._seconds, sent=sent)

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` when the time has passed, instead of an earlier one; at once if it has."""
        with self._lock:
            self._wake = wake
            rung = self._rung
        if rung:
            wake()

    def keep_for(self, stream: GenerationStream) -> None:
        """Let a stream `expire` when the time has passed."""
        self.kept = True
        self.watch(partial(_expire, weakref.ref(stream), self.error("/generate")))

    def _ring(self) -> None:
        with self._lock:
            self._rung = True
            wake = self._wake
        if wake is not None:
            wake()

    def end(self) -> None:
        """Stop the timer."""
        self._timer.cancel()

    def closing(self, close: Callable[[], None]) -> Callable[[], None]:
        """Let the end of a stream's answer end its limit, too."""

        def close_and_end() -> None:
            self.end()
            close()

        return close_and_end


def _expire(
    reference: weakref.ref[GenerationStream] | weakref.ref[AsyncGenerationStream], error: NbruntimeError
) -> None:
    stream = reference()
    if stream is not None:
        stream.expire(error)


_current: ContextVar[TimeLimit | None] = ContextVar("nbruntime_time_limit", default=None)


@contextlib.contextmanager
def time_limit(seconds: float | None, settings: Settings) -> Iterator[TimeLimit | None]:
    """Limit the time of the requests that are sent in the block; None for no limit."""
    seconds = checked_seconds("timeout", seconds)
    if seconds is None:
        yield None
        return
    limit = TimeLimit(seconds, settings)
    token = _current.set(limit)
    try:
        yield limit
    finally:
        _current.reset(token)
        if not limit.kept:
            limit.end()


def passed_limit() -> TimeLimit | None:
    """Return the limit of the requests that are sent now, if its time has passed."""
    limit = _current.get()
    return None if limit is None or limit.remaining else limit


def limited(timeouts: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
    """Shorten the time-out of a connection to the time that is left; the next bytes are watched."""
    connect, read = timeouts
    limit = _current.get()
    if limit is not None:
        connect = min(filter(None, (connect, max(limit.remaining, 1e-3))))  # 0 is no time-out
    return connect, read


_connections = threading.RLock()
"""Guards whose request a connection serves: a kept one may be given to another thread at any time."""


def watch_connection(connection: Any) -> None:
    """Break a connection of urllib3 when the time of the request that it is used for now has passed."""
    limit = _current.get()
    with _connections:
        connection.time_limit = limit
    if limit is not None:
        if not limit.remaining:
            raise TimeoutError
        limit.watch(partial(_break, connection, connection.sock, limit))


def _break(connection: Any, wire: socket.socket | None, limit: TimeLimit) -> None:
    with _connections, contextlib.suppress(OSError):  # it is closed already
        if wire is not None and connection.time_limit is limit:
            # Not SSLSocket's own method: after it the reader would take encrypted bytes for text.
            socket.socket.shutdown(wire, socket.SHUT_RDWR)


class AsyncTimeLimit:
    """The time of a request in an event loop; `run` what belongs to it."""

    def __init__(self, seconds: float | None, settings: Settings) -> None:
        self._seconds = checked_seconds("timeout", seconds)
        self._settings = settings
        self._until = None if seconds is None else asyncio.get_running_loop().time() + seconds
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Wait for `work`, and cancel it when the time has passed."""
        if self._seconds is None:
            return await work
        try:
            async with asyncio.timeout_at(self._until) as timeout:
                return await work
        except TimeoutError:
            if not timeout.expired():
                raise
        # Not as its cause: the frames of the cancelled task hold the key.
        raise self._settings.note_error(self._error(self._seconds))

    def keep_for(self, stream: AsyncGenerationStream) -> None:
        """Let a stream `expire` when the time has passed."""
        if self._seconds is not None and self._until is not None:
            error = self._error(self._seconds)
            self._timer = stream.loop.call_at(self._until, _expire, weakref.ref(stream), error)

    def _error(self, seconds: float) -> NbruntimeError:
        return took_too_long(self._settings, "/generate", seconds)

    def closing(self, close: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """Let the end of a stream's answer end its limit, too."""

        async def close_and_end() -> None:
            if self._timer is not None:
                self._timer.cancel()
            await close()

        return close_and_end
