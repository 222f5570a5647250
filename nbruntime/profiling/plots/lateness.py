"""The picture of how late a load test sent its requests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nbruntime.display.html import visible
from nbruntime.display.numbers import duration, rate
from nbruntime.profiling.bench_run import BenchRun
from nbruntime.profiling.plots.axes import count_axis, time_axis
from nbruntime.profiling.plots.colours import Theme
from nbruntime.profiling.plots.curves import draw_share_curve
from nbruntime.profiling.plots.empty import empty_figure
from nbruntime.profiling.plots.figure import Figure, new_figure

SHORTEST = 1e-5
"""Seconds; what was sent in time is drawn here, as a logarithmic axis has no zero."""

DASHES = ("-", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))

LATE = 5e-3
"""Seconds; a client that is later at the median limits what it measures."""


def plot_lateness(runs: Sequence[BenchRun], *, theme: Theme | None = None) -> Figure:
    """Draw the distribution of how late each run's requests were sent.

    Parameters
    ----------
    runs : sequence of BenchRun
        Runs of load tests.
    theme : str, optional
        ``"light"`` or ``"dark"``; otherwise that of the notebook.

    Examples
    --------
    >>> from nbruntime.profiling.records import RequestRecord
    >>> requests = [RequestRecord("a", 100.001, 101, scheduled=100.0)]
    >>> run = BenchRun("a", "", "", "open", 2.0, None, 100, 101, (100, 101), requests)
    >>> plot_lateness([run])  # doctest: +ELLIPSIS
    Lateness: ...
      a, 2 requests/s: median 1 ms
    """
    caption = (
        "Lateness: from the time at which a request was due to the time at which it was sent, by the "
        f"client's clock. A client that is more than {duration(LATE)} late at the median (dashed) is the "
        "limit itself: its server may hold more than the run says."
    )
    known = [(run, late) for run in runs if len(late := lateness_of(run))]
    if not known:
        words = "No request had a scheduled time."
        return empty_figure(theme, title="How late requests were sent", words=words, caption=caption)
    with new_figure(theme, caption=caption, height=3.2) as figure:
        axes = figure.subplots()
        axes.set_title("How late requests were sent")
        longest = max(float(late.max()) for _, late in known)
        time_axis(axes.xaxis, "lateness", min(longest, 0.9), log=True)
        axes.set_xlim(SHORTEST * 0.8, max(longest * 1.5, LATE * 4))
        count_axis(axes.yaxis, "share of requests (%)")
        axes.set_ylim(0, 104)
        axes.axvline(LATE, color=figure.colours.quiet, linewidth=0.8, linestyle=(0, (4, 3)))
        for number, (run, late) in enumerate(known):
            median = f"median {duration(float(np.median(late)), digits=2)}"
            figure.figures.append(f"{run_in_words(run)}: {median}")
            look = {
                "color": figure.colours.hues[number % len(figure.colours.hues)],
                "linestyle": DASHES[number % len(DASHES)],
                "label": visible(f"{run_in_words(run)}\n{median}"),
            }
            draw_share_curve(axes, np.maximum(late, SHORTEST), **look)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), labelspacing=0.9)
    return figure


def lateness_of(run: BenchRun) -> NDArray[np.float64]:
    """Return how late the requests were sent in seconds, in order."""
    return np.sort([late for request in run.requests if (late := request.lateness) is not None])


def run_in_words(run: BenchRun) -> str:
    """Name a run by its server and its load."""
    if run.loop == "closed":
        load = f"{run.concurrency} user{'' if run.concurrency == 1 else 's'}"
    elif run.rate is None or np.isinf(run.rate):
        load = "all at once"
    else:
        load = f"{rate(run.rate)} requests/s"
    return f"{run.label}, {load}" if run.label else load
