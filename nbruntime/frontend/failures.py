"""Errors in a program of the frontend language, so that none goes unseen and none hangs.

SGLang's interpreter runs a program in threads. What a backend raises there ends the thread: it becomes
``state.error()``, an iterator of the text ends as if all were well, ``state["name"]`` is a KeyError or as
much text as had come, and a batch goes on. The interpreter's own warning is a traceback, which Python
shows only once for the same place. What the program asks for after that, nobody does: ``s.fork()``,
``state.sync()`` and ``state["name"]`` wait for ever.
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
"""The programs of a batch that fail in the same way within this time are told of once."""

LOOK_SECONDS = 0.05
"""How often it is looked whether a program that has failed is over."""


class ProgramWarning(UserWarning):
    """A program of the frontend language failed; ``state.error()`` has the error."""


@contextlib.contextmanager
def warn_on_error(call: str, s: Any) -> Iterator[None]:
    """Warn of an error that leaves this block, every time; the error goes on.

    Parameters
    ----------
    call : str
        What the program had called, such as ``sgl.gen``.
    s : StreamExecutor
        State of the program.
    """
    try:
        yield
    except Exception as error:
        with contextlib.suppress(ProgramWarning):  # where warnings are errors, the error itself is better
            _warn(call, f"{type(error).__name__}: {error}")
        if threading.current_thread() is getattr(s, "worker", None):
            sweep = threading.Thread(target=_sweep, args=(s, error), name="nbruntime-sweep", daemon=True)
            sweep.start()
        raise


def mark_finished(s: Any) -> None:
    """Note that a program asks for nothing more."""
    _over.add(s)


_lock = threading.Lock()
_told: dict[str, float] = {}
_over: weakref.WeakSet[Any] = weakref.WeakSet()


def _warn(call: str, text: str) -> None:
    now = time.monotonic()
    with _lock:
        for old in [each for each, at in _told.items() if now - at > QUIET_SECONDS]:
            del _told[old]
        again = text in _told
        _told.setdefault(text, now)
    if not again:
        # Without a registry: Python would keep the second warning of the same text to itself.
        warnings.warn_explicit(text, ProgramWarning, call, 0)


def _sweep(s: Any, error: Exception) -> None:
    """Clear away what a program asks of a state whose thread has ended, until it asks for no more."""
    s.worker.join()
    if not s.is_finished:
        _finish(s, error)
    programs.ended(s)  # before now nothing said that it had failed
    last = False
    while not last:
        last = s in _over
        with contextlib.suppress(queue.Empty):
            while True:
                s.queue.get(timeout=None if last else LOOK_SECONDS, block=not last)
                s.queue.task_done()
        for event in list(s.variable_event.values()):
            event.set()


def _finish(s: Any, error: Exception) -> None:
    """Do what the thread of a state does at its end, and does not where its warning is an error."""
    s.error_ = error
    s.is_finished = True
    for event in (*(s.stream_var_event or {}).values(), s.stream_text_event):
        if event is not None:
            event.set()
    s.queue.task_done()
