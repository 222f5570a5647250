"""Warnings for failed programs of the frontend language, and a clean-up so that they do not hang.

SGLang's interpreter runs a program in threads. An exception of the backend ends the thread and becomes
``state.error()``: iterators end as if all were well, ``state["name"]`` is a KeyError or a partial text, and
a batch goes on. The interpreter's own warning is a traceback, which Python shows only once for each place.
What the program submits afterwards never runs, so ``s.fork()`` and ``state.sync()`` would wait for ever.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

from nbruntime.frontend import programs

QUIET_SECONDS = 1.0
"""Seconds within which the same error of a batch's programs is reported once."""

LOOK_SECONDS = 0.05
"""Seconds between checks whether a failed program has ended."""


class ProgramWarning(UserWarning):
    """A program of the frontend language failed; ``state.error()`` has the error."""


@contextlib.contextmanager
def warn_on_error(call: str, s: Any) -> Iterator[None]:
    """Warn of every error that leaves this block, and raise it again; `call` is what the program called."""
    try:
        yield
    except Exception as error:
        with contextlib.suppress(ProgramWarning):  # where warnings are errors, prefer the error itself
            _warn(call, f"{type(error).__name__}: {error}")
        if threading.current_thread() is getattr(s, "worker", None):
            sweep = threading.Thread(
                target=_discard_submissions, args=(s, error), name="nbruntime-sweep", daemon=True
            )
            sweep.start()
        raise


def mark_finished(s: Any) -> None:
    """Note that a program submits nothing more."""
    _finished.add(s)


_lock = threading.Lock()
_reported: dict[str, float] = {}
_finished: weakref.WeakSet[Any] = weakref.WeakSet()


def _warn(call: str, text: str) -> None:
    now = time.monotonic()
    with _lock:
        for old in [each for each, at in _reported.items() if now - at > QUIET_SECONDS]:
            del _reported[old]
        known = text in _reported
        _reported.setdefault(text, now)
    if not known:
        # Without a registry: Python would suppress the second warning of the same text.
        warnings.warn_explicit(text, ProgramWarning, call, 0)


def _discard_submissions(s: Any, error: Exception) -> None:
    """Discard what a program submits to a state whose thread has ended, until the program ends."""
    s.worker.join()
    if not s.is_finished:
        _finish(s, error)
    programs.record_end(s)  # only now it is known to have failed
    last = False
    while not last:
        last = s in _finished
        with contextlib.suppress(queue.Empty):
            while True:
                s.queue.get(timeout=None if last else LOOK_SECONDS, block=not last)
                s.queue.task_done()
        for event in list(s.variable_event.values()):
            event.set()


def _finish(s: Any, error: Exception) -> None:
    """End a state as its thread does, except where the thread's warning is an error."""
    s.error_ = error
    s.is_finished = True
    for event in (*(s.stream_var_event or {}).values(), s.stream_text_event):
        if event is not None:
            event.set()
    s.queue.task_done()
