"""SIGINT closes the open streams of the main thread.

After an interrupt in the body of ``for text in stream``, the traceback that Python and IPython keep for
debuggers still holds the stream, so the server would go on generating. While blocking streams are open in
the main thread, a handler of this module wraps the previous one: it calls it, and if that raises, closes
the streams. It is removed with the last stream.

Only streams that were opened or read since the handler was set are closed. ipykernel sets its handler anew
for every cell, so a stream of an earlier cell survives the interrupt of a later one.
"""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

_SIGINT = int(signal.SIGINT)

# Called at every text: signal.getsignal would convert handlers to enums, which is slow.
_handler: Callable[[int], object] = importlib.import_module("_signal").getsignal


class Interruptible(Protocol):
    """An object that can be closed in a signal handler, without waiting and without locks."""

    def interrupted(self) -> None:
        """Close it."""


class _SigintHandler:
    """A SIGINT handler that wraps another one."""

    def __init__(self, previous: Callable[[int, FrameType | None], Any]) -> None:
        self.previous = previous
        self.streams: dict[int, weakref.ref[Interruptible]] = {}

    def __call__(self, number: int, frame: FrameType | None) -> None:
        try:
            self.previous(number, frame)
        except BaseException:
            self._close_streams()
            raise
        if _has_running_loop():
            self._close_streams()  # an event loop's handler cancels a task, and returns

    def add(self, stream: Interruptible) -> None:
        key = id(stream)
        self.streams[key] = weakref.ref(stream, lambda _: self.drop(key))

    def drop(self, key: int) -> None:
        self.streams.pop(key, None)
        self._restore_if_unused()

    def _restore_if_unused(self) -> None:
        """Restore the previous handler when no stream is watched any more."""
        if not self.streams and _in_main_thread():
            current = _handler(_SIGINT)
            if current is self:
                signal.signal(_SIGINT, self.previous)

    def _close_streams(self) -> None:
        streams = list(self.streams.values())
        self.streams.clear()
        self._restore_if_unused()
        for reference in streams:
            stream = reference()
            if stream is not None:
                stream.interrupted()


def watch(stream: Interruptible) -> None:
    """Let the next interrupt close a stream; called whenever it is opened or read.

    Has no effect outside of the main thread, or where SIGINT is ignored or not handled by Python.
    """
    handler = _handler(_SIGINT)
    if isinstance(handler, _SigintHandler) and id(stream) in handler.streams:
        return  # as at nearly every text
    if not _in_main_thread():
        return
    if isinstance(handler, _SigintHandler):
        handler.add(stream)
    elif callable(handler):
        wrapper = _SigintHandler(handler)
        wrapper.add(stream)
        # Only the main interpreter handles signals.
        with contextlib.suppress(ValueError):
            signal.signal(_SIGINT, wrapper)


def unwatch(stream: Interruptible) -> None:
    """Stop watching a stream that has ended."""
    handler = _handler(_SIGINT)
    if isinstance(handler, _SigintHandler):
        handler.drop(id(stream))


def _in_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident


def _has_running_loop() -> bool:
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None
