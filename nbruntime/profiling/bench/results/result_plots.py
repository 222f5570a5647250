"""The pictures of a load test: its curve, and those that profiles have, of one run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from nbruntime.profiling.bench_run import BenchRun
from nbruntime.profiling.plots import plot
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.sweep_point import SweepPoint

if TYPE_CHECKING:
    from nbruntime.profiling.plots.colours import Theme
    from nbruntime.profiling.plots.figure import Figure


class ResultPlots:
    """The plots of `BenchResult`; matplotlib is loaded by the first.

    Each takes `theme`: ``"light"`` or ``"dark"``, by default that of the notebook. Those of one run take
    `run`, its place among the runs; by default the largest load that held.
    """

    runs: list[BenchRun]

    def points(self, quantile: float = 0.5) -> Sequence[SweepPoint]:
        """Return the points of the curve."""
        raise NotImplementedError

    def profile_data(self, run: int | None = None, *, steady: bool = False) -> ProfileData:
        """Return a run as the data of a profile."""
        raise NotImplementedError

    def plot(self, *, quantile: float = 0.5, theme: Theme | None = None) -> Figure:
        """Draw latency against throughput, a point for each run, with the knee of each server's curve."""
        from nbruntime.profiling.plots.sweep import plot_sweep

        points: Iterable[SweepPoint] = self.points(quantile)
        return plot_sweep(points, theme=theme)

    def plot_lateness(self, *, theme: Theme | None = None) -> Figure:
        """Draw how late the requests of each run were sent."""
        from nbruntime.profiling.plots.lateness import plot_lateness

        return plot_lateness(self.runs, theme=theme)

    def plot_requests(self, run: int | None = None, *, theme: Theme | None = None) -> Figure:
        """Draw the requests of a run one below the other."""
        return _drawn("plot_requests", self.profile_data(run), theme)

    def plot_throughput(self, run: int | None = None, *, theme: Theme | None = None) -> Figure:
        """Draw the tokens per second of a run over time, with its running and queued requests."""
        return _drawn("plot_throughput", self.profile_data(run), theme)

    def plot_ttft(self, run: int | None = None, *, theme: Theme | None = None) -> Figure:
        """Draw the times to the first token in the steady state of a run."""
        return _drawn("plot_ttft", self.profile_data(run, steady=True), theme)

    def plot_itl(self, run: int | None = None, *, theme: Theme | None = None) -> Figure:
        """Draw the times between tokens in the steady state of a run."""
        return _drawn("plot_itl", self.profile_data(run, steady=True), theme)

    def plot_cache(self, run: int | None = None, *, theme: Theme | None = None) -> Figure:
        """Draw the use of the KV cache in a run, and its hits."""
        return _drawn("plot_cache", self.profile_data(run), theme)


def _drawn(name: str, data: ProfileData, theme: Theme | None) -> Figure:
    figure: Figure = plot(name, data, theme=theme)
    return figure
