"""The streams of a client that are still in use."""

from __future__ import annotations

import threading
import weakref
from typing import Generic, TypeVar

_Stream = TypeVar("_Stream")


class LiveStreams(Generic[_Stream]):
    """Weak references to streams, so that closing a client closes them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: weakref.WeakSet[_Stream] = weakref.WeakSet()

    def add(self, stream: _Stream) -> None:
        """Add a stream."""
        with self._lock:
            self._streams.add(stream)

    def take(self) -> list[_Stream]:
        """Return the streams that are still alive, and remove them."""
        with self._lock:
            streams = list(self._streams)
            self._streams.clear()
        return streams
