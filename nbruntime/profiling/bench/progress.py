"""How far a load test is, and lines about it in a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from nbruntime.display.numbers import duration, elapsed, rate

LINE_SECONDS = 5.0  # between two lines, where a line cannot be rewritten
REWRITE_SECONDS = 0.25  # between two rewrites of the line in a terminal


@dataclass(frozen=True, slots=True)
class BenchProgress:
    """The state of a running load test.

    Parameters
    ----------
    label, load : str
        Name of the server, and the load in words.
    run, runs : int
        Number of the run, from 1, and of all runs.
    sent, running, done, failed : int
        Requests of this run.
    total : int or None
        Requests of this run in all; None if only its time is limited.
    seconds, limit : float, float or None
        Time since its start, and the time that it lasts.
    tokens_per_second : float
        Output tokens per second of the last seconds.
    ttft : float or None
        Median TTFT of recent requests in seconds.
    """

    label: str
    load: str
    run: int = 1
    runs: int = 1
    sent: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    total: int | None = None
    seconds: float = 0.0
    limit: float | None = None
    tokens_per_second: float = 0.0
    ttft: float | None = None

    @property
    def share(self) -> float:
        """Part of the run that is over, from 0 to 1."""
        shares = [(self.done + self.failed) / self.total] if self.total else []
        if self.limit:
            shares.append(self.seconds / self.limit)
        return min(1.0, max(shares, default=0.0))

    def figures(self) -> list[tuple[str, str]]:
        """Return the figures as labels and values."""
        total = "" if self.total is None else f" of {self.total:,}"
        return [
            ("sent", f"{self.sent:,}{total}"),
            ("running", f"{self.running:,}"),
            ("done", f"{self.done:,}"),
            ("failed", f"{self.failed:,}" if self.failed else ""),
            ("output", f"{rate(self.tokens_per_second)} tokens/s"),
            ("TTFT p50", "" if self.ttft is None else duration(self.ttft)),
            ("time", elapsed(self.seconds)),
        ]

    def __str__(self) -> str:
        which = f"{self.run}/{self.runs} " if self.runs > 1 else ""
        figures = ", ".join(f"{label} {value}" for label, value in self.figures() if value)
        return f"{which}{self.label}, {self.load}: {figures}"


Progress = Callable[[BenchProgress], object] | Literal[False] | None
"""A callback, False (silent) or None (automatic)."""


class ProgressLines:
    """Writes the progress to stderr, in a terminal by rewriting one line."""

    def __init__(self) -> None:
        self._one_line = sys.stderr.isatty()
        self._said = 0.0
        self._run = 0

    def __call__(self, progress: BenchProgress) -> None:
        """Write the progress if it is due."""
        now = time.monotonic()
        pause = REWRITE_SECONDS if self._one_line else LINE_SECONDS
        if now - self._said < pause and progress.run == self._run:
            return
        self._said, self._run = now, progress.run
        start, end = ("\r\x1b[K", "") if self._one_line else ("", "\n")
        print(f"{start}nbruntime: {progress}", end=end, file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The line is removed from a terminal.
        if self._one_line and self._said:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
