"""Keep a stream open until its readers have taken the last piece.

SGLang's iterators, ``state.text_iter`` and ``text_async_iter``, stop if the variable is complete when they
come back for more, and lose what has arrived meanwhile (0.4.10 to 0.5.23, ``lang/interpreter.py``). A
variable is complete when its stream ends, so a stream ends only when its readers have taken the last piece.
"""

from __future__ import annotations

import threading
import time
import weakref
from typing import Any

PATIENCE = 2.0
"""Seconds that the end of a stream waits for a reader, which may have left its loop."""

LOOK_SECONDS = 0.005
"""Seconds between checks whether a reader has come back."""


class Readers:
    """Detects the readers of a stream: the interpreter sets events at each piece, and readers clear them."""

    def __init__(self, s: Any) -> None:
        complete = getattr(s, "variable_event", None) or {}
        of_variables = getattr(s, "stream_var_event", None) or {}
        of_text = getattr(s, "stream_text_event", None)
        self._events: list[threading.Event] = [
            event
            for name, event in list(of_variables.items())  # the thread of the program may enter more
            if name in s.variables and not complete[name].is_set()
        ]
        _once_set.update(self._events)  # set when the gen began; the event of the text only by an earlier gen
        if of_text is not None:
            self._events.append(of_text)

    def update(self) -> None:
        """Note the cleared events; to be called before each piece, which sets them all."""
        _with_reader.update(event for event in self._events if event in _once_set and not event.is_set())
        _once_set.update(self._events)

    def wait_until_consumed(self) -> None:
        """Wait until the readers have taken the last piece."""
        self.update()
        deadline = time.monotonic() + PATIENCE
        for event in _with_reader.intersection(self._events):
            while event.is_set():
                if time.monotonic() > deadline:
                    _with_reader.discard(event)
                    break
                time.sleep(LOOK_SECONDS)


_once_set: weakref.WeakSet[threading.Event] = weakref.WeakSet()
"""Events that were set: a reader has cleared those that are not set now."""

_with_reader: weakref.WeakSet[threading.Event] = weakref.WeakSet()
"""Events that have a reader."""
