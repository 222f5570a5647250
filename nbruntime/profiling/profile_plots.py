"""The plots of a profile as its methods; matplotlib is loaded by the first one that is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbruntime.profiling.plots import plot
from nbruntime.profiling.profile_data import ProfileData

if TYPE_CHECKING:
    from nbruntime.profiling.plots.activity import Source
    from nbruntime.profiling.plots.colours import Theme
    from nbruntime.profiling.plots.figure import Figure


class PlotMethods(ProfileData):
    """Draws a profile.

    Each method returns a `Figure`, which shows itself in a cell, in the theme of the notebook or in the given
    `theme`, ``"light"`` or ``"dark"``. ``nbruntime.profiling.plots`` has functions of the same names.
    """

    def plot_requests(
        self, *, between: tuple[float, float] | None = None, theme: Theme | None = None
    ) -> Figure:
        """Draw the waterfall: queue, prefill and decode of each request, the server's steps under it.

        `between` gives the first and last second to show, from the begin of the profile.
        """
        return self._plot("plot_requests", between=between, theme=theme)

    def plot_ttft(self, *, theme: Theme | None = None) -> Figure:
        """Draw the times to the first token."""
        return self._plot("plot_ttft", theme=theme)

    def plot_itl(self, *, theme: Theme | None = None) -> Figure:
        """Draw the inter-token latencies: their distribution, and by token position."""
        return self._plot("plot_itl", theme=theme)

    def plot_throughput(self, *, theme: Theme | None = None) -> Figure:
        """Draw tokens per second, with running and queued requests."""
        return self._plot("plot_throughput", theme=theme)

    def plot_cache(self, *, theme: Theme | None = None) -> Figure:
        """Draw the use of the KV cache, its hits, and TTFT against uncached tokens."""
        return self._plot("plot_cache", theme=theme)

    def plot_steps(self, *, theme: Theme | None = None) -> Figure:
        """Draw stage and batch size of the server's steps over time."""
        return self._plot("plot_steps", theme=theme)

    def plot_step_time(self, *, theme: Theme | None = None) -> Figure:
        """Draw the duration of steps against batch size and tokens."""
        return self._plot("plot_step_time", theme=theme)

    def plot_operators(self, *, top: int = 15, theme: Theme | None = None) -> Figure:
        """Draw the `top` operators and kernels, by their time; needs a trace."""
        return self._plot_trace("plot_operators", top=top, theme=theme)

    def plot_kernel_classes(self, *, theme: Theme | None = None) -> Figure:
        """Draw the time by class of kernel: gemm, attention, communication, ...; needs a trace."""
        return self._plot_trace("plot_kernel_classes", theme=theme)

    def plot_idle(self, *, source: Source | None = None, theme: Theme | None = None) -> Figure:
        """Draw when the server did nothing: between its steps; with a trace, between operators or kernels."""
        return self._plot_trace("plot_idle", source=source, theme=theme)

    def _plot(self, name: str, **options: Any) -> Figure:
        figure: Figure = plot(name, self, **options)
        return figure

    def _plot_trace(self, name: str, **options: Any) -> Figure:
        return self._plot(name, **options)
