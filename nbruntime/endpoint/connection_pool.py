"""Kept connections of the blocking client: as many as its callers use at once."""

from __future__ import annotations

import contextlib
import queue
import time
from collections import deque
from typing import Any

import requests.adapters
import urllib3
import urllib3.connection

from nbruntime.endpoint.time_limit import watch_connection

KEPT_SECONDS = 4.0
"""Seconds that an idle connection is kept, in both clients: SGLang closes it after 5."""


class KeptConnections:
    """The queue of a connection pool: has no limit, and closes connections that have been idle for long.

    urllib3's own queue holds a fixed number, and logs a warning for each connection beyond it. There is no
    lock, since signal handlers and finalizers may come in at any point; the steps of a deque are atomic.
    """

    def __init__(self, maxsize: int = 0) -> None:
        self._idle: deque[tuple[float, Any]] = deque()  # the latest is used first, and the others grow old

    def put(self, connection: Any, block: bool = True, timeout: float | None = None) -> None:
        """Keep a connection; None, which stands for one that is not open yet, is not kept."""
        if connection is not None:
            self._idle.append((time.monotonic(), connection))
        self._close_old()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Return the connection that was used last; raise `queue.Empty` without waiting if there is none."""
        self._close_old()
        try:
            return self._idle.pop()[1]
        except IndexError:
            raise queue.Empty from None

    def qsize(self) -> int:
        """Return the number of kept connections."""
        return len(self._idle)

    def _close_old(self) -> None:
        oldest = time.monotonic() - KEPT_SECONDS
        with contextlib.suppress(IndexError):  # none is left
            while self._idle[0][0] < oldest:
                self._idle.popleft()[1].close()


class _Watched:
    """Lets a connection heed the time limit of the request that it is used for."""

    def request(self, *arguments: Any, **options: Any) -> None:
        watch_connection(self)
        super().request(*arguments, **options)  # type: ignore[misc] # of urllib3's class

    def getresponse(self, *arguments: Any, **options: Any) -> Any:
        watch_connection(self)  # now it is connected; the response may take the socket from it
        return super().getresponse(*arguments, **options)  # type: ignore[misc]


class _HTTPConnection(_Watched, urllib3.connection.HTTPConnection):
    pass


class _HTTPSConnection(_Watched, urllib3.connection.HTTPSConnection):
    pass


class _HTTPConnectionPool(urllib3.HTTPConnectionPool):
    QueueCls: Any = KeptConnections
    ConnectionCls = _HTTPConnection


class _HTTPSConnectionPool(urllib3.HTTPSConnectionPool):
    QueueCls: Any = KeptConnections
    ConnectionCls = _HTTPSConnection


_POOL_CLASSES = {"http": _HTTPConnectionPool, "https": _HTTPSConnectionPool}


class KeepingAdapter(requests.adapters.HTTPAdapter):
    """An adapter of `requests` whose pools, also those of proxies, are `KeptConnections`."""

    def __init__(self) -> None:
        super().__init__(pool_connections=4, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Make the pools of connections without a proxy."""
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = _POOL_CLASSES

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Make the pools of a proxy's connections."""
        manager = super().proxy_manager_for(proxy, **options)
        manager.pool_classes_by_scheme = _POOL_CLASSES
        return manager
