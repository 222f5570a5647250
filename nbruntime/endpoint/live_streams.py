"""The streams of a client that somebody still holds."""

from __future__ import annotations

import threading
import weakref
from typing import Generic, TypeVar

_Stream = TypeVar("_Stream")


class LiveStreams(Generic[_Stream]):
    """Streams that are left when their client is closed; they are not kept alive."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: weakref.WeakSet[_Stream] = weakref.WeakSet()

    def add(self, stream: _Stream) -> None:
        """Note a stream."""
        with self._lock:
            self._streams.add(stream)

    def take(self) -> list[_Stream]:
        """Give the streams that are still there, and forget them."""
        with self._lock:
            streams = list(self._streams)
            self._streams.clear()
        return streams
