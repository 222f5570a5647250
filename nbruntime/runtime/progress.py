"""Reports the progress of a launch: a view in a notebook, a line in a terminal, or the caller's function."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Literal

from nbruntime.display.upper_floors import upper_class
from nbruntime.display.views import shows_widgets
from nbruntime.launch.phases import FETCHING, Phase, Phases

__all__ = ["Announcer", "Progress", "announced"]

Progress = Callable[[Phase], object] | Phases | Literal[False] | None
"""A callback, a `Phases`, False (silent) or None (automatic)."""

QUIET_SECONDS = 2.0  # that a download may take before a line is written about it
PROGRESS_SECONDS = 5.0  # between two lines about a download, where a line cannot be rewritten
REWRITE_SECONDS = 0.2  # between two rewrites of the line in a terminal


@contextlib.contextmanager
def announced(runtime: object, progress: Progress, log_level: str) -> Iterator[Callable[[Phase], object]]:
    """Report the launch of a `Runtime` while it runs; yields a function to call with every phase."""
    if progress is False or isinstance(progress, Phases):  # they are entered anyway
        yield lambda _phase: None
    elif progress is not None:
        yield progress
    elif shows_widgets():
        with upper_class("launch")(runtime) as view:
            yield view
    else:
        announcer = Announcer(log_level)
        try:
            yield announcer
        finally:
            announcer.end()


class Announcer:
    """Writes the phases of a launch to stderr, in a terminal by rewriting one line.

    At the log levels above ``"info"`` it writes only the progress of a long download.
    """

    def __init__(self, log_level: str) -> None:
        self._loud = log_level in ("info", "debug")
        self._one_line = sys.stderr.isatty()
        self._last = ""
        self._said = 0.0
        self._fetching_since: float | None = None

    def __call__(self, phase: Phase) -> None:
        """Write the phase if it is due."""
        now = time.monotonic()
        fetching = phase.name in FETCHING
        pause = REWRITE_SECONDS if self._one_line else PROGRESS_SECONDS
        if phase.name == self._last and not (fetching and now - self._said >= pause):
            return
        if not self._loud:
            if not fetching:
                return
            self._fetching_since = self._fetching_since or now
            if now - self._fetching_since < QUIET_SECONDS:
                return
        self._last, self._said = phase.name, now
        start, end = ("\r\x1b[K", "") if self._one_line else ("", "\n")
        print(f"{start}nbruntime: {phase}", end=end, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Remove the line from a terminal."""
        if self._one_line and self._last:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
