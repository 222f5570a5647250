"""The curve of a sweep: throughput and latency by load, as pictures take it."""

from __future__ import annotations

import math

from nbruntime.profiling.bench.results.run_figures import RunFigures
from nbruntime.profiling.bench.results.verdicts import load_of
from nbruntime.profiling.bench_run import CLIENT_LIMIT, BenchRun
from nbruntime.profiling.confidence import Interval
from nbruntime.profiling.sweep_point import SweepPoint

_BOUNDED = {"throughput": "token_rate", "ttft": "ttft", "tpot": "tpot", "e2e": "e2e"}


def sweep_point(figures: RunFigures, quantile: float = 0.5) -> SweepPoint | None:
    """Return the point of a run; None if it has no load or no throughput."""
    throughput, load = figures.token_rate, load_of(figures.run)
    if throughput is None or math.isnan(load):
        return None
    intervals: dict[str, Interval] = {}
    for name, figure in _BOUNDED.items():
        if (bounds := figures.interval(figure, quantile)) is not None:
            intervals[name] = bounds
    return SweepPoint(
        figures.run.label,
        load,
        throughput,
        figures.ttft.quantile(quantile),
        figures.tpot.quantile(quantile),
        figures.e2e.quantile(quantile),
        figures.goodput,
        figures.run.loop,
        quantile,
        intervals,
        doubt(figures),
    )


def doubt(figures: RunFigures) -> str:
    """Say why a run says less than others; empty if it does not."""
    if client_limited(figures.run):
        return "the client was the limit"
    if figures.run.interrupted:
        return "stopped early"
    if not figures.measured:
        return "no request finished"
    return ""


def client_limited(run: BenchRun) -> bool:
    """Tell whether a run's notes say that its client was slower than the server."""
    return any(note.startswith(CLIENT_LIMIT) for note in run.notes)
