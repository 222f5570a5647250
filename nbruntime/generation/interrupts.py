"""Interrupts, and the streams that would outlive them.

After an interrupt in the body of ``for text in stream``, the traceback that Python and IPython keep for
debuggers holds the loop's frame, and a stream with a name stays alive besides: nobody reads it, and the
server goes on. So while blocking streams are open in the main thread, a handler of this module stands
before the one that SIGINT had. It lets that one do its work, and when that ends the program's flow, leaves
the streams. It is gone with the last stream.

Only streams that were opened or read since the handler came are left. ipykernel sets the handler of SIGINT
anew for every cell, so a stream of an earlier cell outlives the interrupt of a later one.
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

# Asked at every read, and signal.getsignal makes enums of handlers, which takes longer than all the rest.
_handler: Callable[[int], object] = importlib.import_module("_signal").getsignal


class Interruptible(Protocol):
    """What can be left in the middle of anything: without waiting, without locks."""

    def interrupted(self) -> None:
        """Leave it."""


class _Watch:
    """A handler of SIGINT before another one."""

    def __init__(self, previous: Callable[[int, FrameType | None], Any]) -> None:
        self.previous = previous
        self.streams: dict[int, weakref.ref[Interruptible]] = {}

    def __call__(self, number: int, frame: FrameType | None) -> None:
        try:
            self.previous(number, frame)
        except BaseException:
            self._leave()
            raise
        if _has_running_loop():
            self._leave()  # the handlers of event loops cancel a task, and return

    def add(self, stream: Interruptible) -> None:
        key = id(stream)
        if key not in self.streams:
            self.streams[key] = weakref.ref(stream, lambda _: self.drop(key))

    def drop(self, key: int) -> None:
        self.streams.pop(key, None)
        self._settle()

    def _settle(self) -> None:
        """Put the previous handler back when nothing is watched any more."""
        if not self.streams and _in_main_thread():
            current = _handler(_SIGINT)
            if current is self:
                signal.signal(_SIGINT, self.previous)

    def _leave(self) -> None:
        streams = list(self.streams.values())
        self.streams.clear()
        self._settle()
        for reference in streams:
            stream = reference()
            if stream is not None:
                stream.interrupted()


def watch(stream: Interruptible) -> None:
    """Have the next interrupt leave a stream; called whenever it is opened or read.

    Parameters
    ----------
    stream : Interruptible
        Nothing happens outside of the main thread, which alone gets interrupts, or where SIGINT is ignored
        or handled outside of Python.
    """
    if not _in_main_thread():
        return
    handler = _handler(_SIGINT)
    if isinstance(handler, _Watch):
        handler.add(stream)
    elif callable(handler):
        watching = _Watch(handler)
        watching.add(stream)
        # Only the main interpreter has signals.
        with contextlib.suppress(ValueError):
            signal.signal(_SIGINT, watching)


def unwatch(stream: Interruptible) -> None:
    """Forget a stream that is over."""
    handler = _handler(_SIGINT)
    if isinstance(handler, _Watch):
        handler.drop(id(stream))


def _in_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident


def _has_running_loop() -> bool:
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None
