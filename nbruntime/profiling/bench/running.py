"""A load test while it runs, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from nbruntime.display.upper_floors import upper_class
from nbruntime.display.views import shows_widgets
from nbruntime.errors import ArgumentValueError, NbruntimeError
from nbruntime.profiling.bench.options import BenchOptions
from nbruntime.profiling.bench.progress import BenchProgress, Progress, ProgressLines
from nbruntime.profiling.bench.results.result import BenchResult
from nbruntime.profiling.bench.run import run_bench
from nbruntime.profiling.bench.target import Target
from nbruntime.profiling.bench_run import BenchRun

INTERRUPTED = "Interrupted: what was measured until then is kept."
STOPPED = "Stopped: what was measured until then is kept."

WAKE_SECONDS = 0.2
"""Seconds between two wake-ups of a waiting main thread, in which it can be interrupted."""


class RunningBench:
    """A load test that runs beside the notebook's cells; `nbruntime.bench` makes it with ``block=False``.

    Parameters
    ----------
    runs : sequence of (Target, BenchOptions)
        Its runs, one after the other.
    goodput : dict of str to float
        Thresholds in seconds, for the result.
    progress : callable, False or None
        As in `nbruntime.bench`.
    blocking : bool
        Whether a cell waits for it, so that no button of it works.
    """

    def __init__(
        self,
        runs: Sequence[tuple[Target, BenchOptions]],
        goodput: dict[str, float],
        progress: Progress,
        *,
        blocking: bool,
    ) -> None:
        self.blocking = blocking
        self.last: BenchProgress | None = None
        """The last known progress; None before the first run has begun."""
        self._planned = runs
        self._goodput = goodput
        self._runs: list[BenchRun] = []
        self._why = STOPPED
        self._stop = threading.Event()
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._watcher = _watcher(progress, self)
        self._thread = threading.Thread(target=self._work, name="nbruntime-bench", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the load test has not ended yet."""
        return not self._over.is_set()

    def stop(self) -> None:
        """Stop the requests and leave out the runs that have not begun; `result` has what was measured."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end, at most `timeout` seconds; return True if it has ended."""
        return self._over.wait(timeout)

    def result(self) -> BenchResult:
        """Wait for the end, and return the result; raises the error of a load test that measured nothing."""
        self._over.wait()
        if self._error is not None:
            raise self._error
        return self.partial_result()

    def partial_result(self) -> BenchResult:
        """Return the result of the runs that have ended."""
        if not self._runs:
            raise ArgumentValueError(
                "No run of the load test has ended yet", where="result", hint="Wait for its end: wait()."
            )
        return BenchResult(list(self._runs), self._goodput)

    def result_or_interrupt(self) -> BenchResult:
        """Return the result; an interrupt stops the load test, and a second one gives it up."""
        try:
            while not self._over.wait(WAKE_SECONDS):
                pass
        except BaseException as error:  # a signal's handler may raise something else
            self.stop()
            if not isinstance(error, KeyboardInterrupt):
                raise
            self._why = INTERRUPTED
            while not self._over.wait(WAKE_SECONDS):
                pass
            if self._error is None and not any(run.requests for run in self._runs):
                raise
        return self.result()

    def __repr__(self) -> str:
        state = "running" if self.running else "ended"
        return f"RunningBench({state}{'' if self.last is None else f': {self.last}'})"

    def _work(self) -> None:
        try:
            with self._watcher as progress:
                self._run_all(progress)
        except BaseException as error:  # noqa: BLE001 (raised by `result`, in the caller's thread)
            self._error = error
        finally:
            for target, _ in self._planned:
                target.close()
            self._over.set()

    def _run_all(self, progress: Callable[[BenchProgress], object]) -> None:
        def note(state: BenchProgress) -> None:
            self.last = state
            progress(state)

        for number, (target, options) in enumerate(self._planned, 1):
            try:
                run = run_bench(
                    target, options, number=number, runs=len(self._planned), progress=note, stop=self._stop
                )
            except NbruntimeError as error:
                if not self._runs:
                    raise
                self._runs[-1].notes.append(f"The next run, {options.describe()}, failed: {error.message}")
                continue
            if self._stop.is_set():
                run.notes.append(self._why)
            if run.requests or not self._runs:
                self._runs.append(run)
            if self._stop.is_set():
                return


def _watcher(progress: Progress, running: RunningBench) -> AbstractContextManager[Any]:
    """Make what shows the progress: it is told where it is made, by the cell that runs there."""
    if progress is False:
        return nullcontext(lambda _: None)
    if progress is not None:
        return nullcontext(progress)
    if shows_widgets():
        view: AbstractContextManager[Any] = upper_class("bench")(running)
        return view
    return ProgressLines()
