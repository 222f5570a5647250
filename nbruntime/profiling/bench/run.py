"""One run of a load test."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from nbruntime.profiling.bench.load_sampler import LoadSampler
from nbruntime.profiling.bench.notes import run_notes
from nbruntime.profiling.bench.options import BenchOptions
from nbruntime.profiling.bench.plan import Began, ClientEnded, ClientPlan, Figures, Measured, Report
from nbruntime.profiling.bench.process import ClientProcess
from nbruntime.profiling.bench.progress import BenchProgress
from nbruntime.profiling.bench.steady import steady_window
from nbruntime.profiling.bench.target import Target
from nbruntime.profiling.bench.workload import make_plan
from nbruntime.profiling.bench_run import BenchRun, Loop

RATE_SECONDS = 3.0
"""Seconds whose tokens per second are shown."""


def run_bench(
    target: Target,
    options: BenchOptions,
    *,
    number: int = 1,
    runs: int = 1,
    progress: Callable[[BenchProgress], object],
    stop: threading.Event,
) -> BenchRun:
    """Put a server under load once, in a process of its own, and return what was measured.

    Parameters
    ----------
    target, options : Target, BenchOptions
        The server, and what to do.
    number, runs : int
        Number of this run, from 1, and of all runs.
    progress : callable
        Called a few times a second.
    stop : threading.Event
        Ends the run when it is set; what was measured until then is returned.

    Raises
    ------
    NbruntimeError
        If nothing was measured, because the server or the client process failed.
    """
    notes = []
    plan = make_plan(target, options, number)  # first: it may find that an argument is wrong
    if options.flush_cache and (problem := target.flush_cache()):
        notes.append(f"The server's cache was not emptied before the run: {problem}")
    seen = _Seen(BenchProgress(target.label, options.describe(), number, runs, total=plan.count))
    with LoadSampler(target.settings) as sampler, ClientProcess(plan) as client:
        for report in client.reports():
            if stop.is_set():
                client.stop()
            if report is not None:
                seen.take(report)
            if not isinstance(report, Measured):
                progress(seen.progress(options))
        failure = client.failure()
    if sampler.problem:
        notes.append(f"The server's load could not be read: {sampler.problem}")
    if failure is not None:
        if not seen.measured:
            raise failure
        notes.append(f"{failure.message}.")
    run = _measured_run(target, options, plan, seen)
    run.samples.extend(sampler.samples)
    run.notes[:0] = notes
    return replace(run, interrupted=run.interrupted or stop.is_set() or failure is not None)


def _measured_run(target: Target, options: BenchOptions, plan: ClientPlan, seen: _Seen) -> BenchRun:
    """Make the record of what the client process has measured."""
    # In the order of sending; of those that were sent together, in the order of the plan.
    measured = sorted(seen.measured, key=lambda each: (each.record.sent, each.number))
    requests = [each.record for each in measured]
    warmup = sum(each.number < plan.warmup for each in measured)
    started = requests[0].sent if requests else seen.began
    ended = max((each.ended for each in requests), default=started)
    # Users who think are seldom all waiting at once, so their number tells no steady state.
    steady_by: Loop = "open" if options.think_time else options.loop
    return BenchRun(
        label=target.label,
        server=target.settings.base_url,
        model=target.model,
        loop=options.loop,
        rate=options.rate,
        concurrency=plan.concurrency,
        started=started,
        ended=ended,
        steady=steady_window(requests, steady_by, warmup=warmup, started=started, ended=ended),
        requests=requests,
        interrupted=bool(seen.ended and seen.ended.unreachable),
        notes=run_notes(options, requests, seen.ended),
        settings=options.to_dict(),
    )


class _Seen:
    """What the client process has reported so far."""

    def __init__(self, first: BenchProgress) -> None:
        self.measured: list[Measured] = []
        self.began = time.time()
        self.ended: ClientEnded | None = None
        self._first = first
        self._figures = Figures()
        self._recent: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def take(self, report: Report) -> None:
        match report:
            case Began(at=at):
                self.began = at
            case Measured():
                self.measured.append(report)
            case ClientEnded():
                self.ended = report
            case Figures():
                self._figures = report
                now = time.monotonic()
                self._recent.append((now, report.tokens))
                while len(self._recent) > 2 and now - self._recent[0][0] > RATE_SECONDS:
                    self._recent.popleft()

    def progress(self, options: BenchOptions) -> BenchProgress:
        (since, before), (last, tokens) = self._recent[0], self._recent[-1]
        figures, first = self._figures, self._first
        return BenchProgress(
            first.label,
            first.load,
            first.run,
            first.runs,
            figures.sent,
            figures.running,
            figures.done,
            figures.failed,
            first.total,
            max(0.0, time.time() - self.began),
            options.seconds,
            (tokens - before) / (last - since) if last > since else 0.0,
            figures.ttft,
        )
