"""Errors in a program of the frontend language, so that none goes unseen.

SGLang's interpreter runs a program in threads. What a backend raises there ends the thread: it becomes
``state.error()``, an iterator of the text ends as if all were well, ``state["name"]`` is a KeyError or as
much text as had come, and a batch goes on. The interpreter's own warning is a traceback, which Python
shows only once for the same place.
"""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from collections.abc import Iterator

QUIET_SECONDS = 1.0
"""The programs of a batch that fail in the same way within this time are told of once."""


class ProgramWarning(UserWarning):
    """A program of the frontend language failed; ``state.error()`` has the error."""


@contextlib.contextmanager
def told(call: str) -> Iterator[None]:
    """Warn of an error that leaves this block, every time; the error goes on.

    Parameters
    ----------
    call : str
        What the program had called, such as ``sgl.gen``.
    """
    try:
        yield
    except Exception as error:
        with contextlib.suppress(ProgramWarning):  # where warnings are errors, the error itself is better
            _warn(call, f"{type(error).__name__}: {error}")
        raise


_lock = threading.Lock()
_told: dict[str, float] = {}


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
