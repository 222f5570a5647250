"""Shows how far a reading is: a view in a notebook, a line in a terminal, or the caller's function."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Literal

from nbruntime.display.views import shows_widgets, view_class

Progress = Callable[[int, int], object] | Literal[False] | None
"""A function of the bytes done and the total, False (silent) or None (automatic)."""

QUIET_SECONDS = 0.5  # before anything is shown
REWRITE_SECONDS = 0.2  # between two rewrites of the line in a terminal


@contextlib.contextmanager
def reported(progress: Progress, what: str) -> Iterator[Callable[[int, int], object]]:
    """Report a reading while it runs; yields a function to call with the bytes done and the total.

    Parameters
    ----------
    progress : callable, False or None
        How to report it.
    what : str
        Name of what is read.
    """
    if callable(progress):
        yield progress
    elif progress is None and shows_widgets():
        with view_class("reading")(what, quiet=QUIET_SECONDS) as view:
            yield view
    elif progress is None and sys.stderr.isatty():
        line = _Line(what)
        try:
            yield line
        finally:
            line.end()
    else:
        yield lambda done, total: None


class _Line:
    """A line of a terminal that is rewritten, and removed at the end."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._due = time.monotonic() + QUIET_SECONDS
        self._shown = False

    def __call__(self, done: int, total: int) -> None:
        """Write how much is done, if it is due."""
        now = time.monotonic()
        if now >= self._due:
            self._due, self._shown = now + REWRITE_SECONDS, True
            text = f"reading {self._what}: {done / 1e6:,.0f}/{total / 1e6:,.0f} MB"
            print(f"\r\x1b[Knbruntime: {text}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Remove the line."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
