"""The plots of a profile as its methods; matplotlib is loaded by the first one that is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbruntime.profiling.plots import plot
from nbruntime.profiling.profile_data import ProfileData

if TYPE_CHECKING:
    from nbruntime.profiling.plots.figure import Figure


class PlotMethods(ProfileData):
    """Draws a profile.

    Each method returns a `Figure`, which shows itself in a cell, in the theme of the notebook or in the given
    `theme`, ``"light"`` or ``"dark"``. Further options are those of the function of the same name in
    ``nbruntime.profiling.plots``.
    """

    def plot_requests(self, **options: Any) -> Figure:
        """Draw the waterfall: queue, prefill and decode of each request, the server's steps under it."""
        return self._plot("plot_requests", options)

    def plot_ttft(self, **options: Any) -> Figure:
        """Draw the times to the first token."""
        return self._plot("plot_ttft", options)

    def plot_itl(self, **options: Any) -> Figure:
        """Draw the inter-token latencies: their distribution, and by token position."""
        return self._plot("plot_itl", options)

    def plot_throughput(self, **options: Any) -> Figure:
        """Draw tokens per second, with running and queued requests."""
        return self._plot("plot_throughput", options)

    def plot_cache(self, **options: Any) -> Figure:
        """Draw the use of the KV cache, its hits, and TTFT against uncached tokens."""
        return self._plot("plot_cache", options)

    def plot_steps(self, **options: Any) -> Figure:
        """Draw stage and batch size of the server's steps over time."""
        return self._plot("plot_steps", options)

    def plot_step_time(self, **options: Any) -> Figure:
        """Draw the duration of steps against batch size and tokens."""
        return self._plot("plot_step_time", options)

    def plot_operators(self, **options: Any) -> Figure:
        """Draw the operators and kernels that took the most time; needs a trace."""
        return self._plot_trace("plot_operators", options)

    def plot_kernel_classes(self, **options: Any) -> Figure:
        """Draw the time by class of kernel: gemm, attention, communication, ...; needs a trace."""
        return self._plot_trace("plot_kernel_classes", options)

    def plot_idle(self, **options: Any) -> Figure:
        """Draw when the server did nothing: between its steps; with a trace, between operators or kernels."""
        return self._plot_trace("plot_idle", options)

    def _plot(self, name: str, options: dict[str, Any]) -> Figure:
        figure: Figure = plot(name, self, **options)
        return figure

    def _plot_trace(self, name: str, options: dict[str, Any]) -> Figure:
        return self._plot(name, options)
