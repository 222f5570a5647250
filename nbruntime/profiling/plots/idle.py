"""`plot_idle`: when the server computed nothing, and in pieces of which length."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from nbruntime.display.numbers import duration, percent
from nbruntime.profiling.plots.activity import Activity, Source, activity
from nbruntime.profiling.plots.axes import beside_bar, legend_above, no_data, time_axis
from nbruntime.profiling.plots.colours import Colours, Theme
from nbruntime.profiling.plots.empty import empty_figure
from nbruntime.profiling.plots.figure import Figure, new_figure
from nbruntime.profiling.plots.intervals import Floats, common, overlap, time_before
from nbruntime.profiling.plots.step_table import NO_STEPS
from nbruntime.profiling.plots.trace_data import NO_TRACE
from nbruntime.profiling.profile_data import ProfileData

COLUMNS = 90
"""Columns of the shares of time."""


def plot_idle(data: ProfileData, *, source: Source | None = None, theme: Theme | None = None) -> Figure:
    """Draw the server's idle time over time, and the lengths of the gaps that it consists of.

    With a trace it is the time in which the device ran no kernel (on a CPU: no operator), else the time
    between the server's steps.

    Parameters
    ----------
    data : ProfileData
        A profile with steps or a trace.
    source : str or None
        ``"trace"``, ``"steps"``, or None for the trace if there is one. A trace may hold a small part of the
        profile's time.
    theme : str or None
        ``"light"``, ``"dark"``, or None for the theme of the notebook.

    Examples
    --------
    >>> from nbruntime.protocol.step_log import Step
    >>> steps = [Step("DECODE", 10.0, 0.3, 1, 1), Step("DECODE", 10.4, 0.1, 1, 1)]
    >>> plot_idle(ProfileData(started=10.0, ended=10.5, steps=steps)).figures
    ['idle: 100 ms, 20 % of 500 ms, in 1 gap']
    """
    busy = activity(data, source)
    if busy is None:
        caption = "Idle is the time without a step, a forward pass of the model."
        words = NO_TRACE if source == "trace" else NO_STEPS
        return empty_figure(theme, title="Idle time", words=words, caption=caption)
    caption = (
        f"Idle is the time without {busy.what}. Left: its share of the time. Right: all idle time, by the "
        "length of the gaps that make it up, with their number."
    )
    if busy.requests:
        caption += " Red: at least one request of this profile was in flight, from its sending to its end."
    with new_figure(theme, caption=caption, height=3.2) as figure:
        left, right = figure.subplots(1, 2, width_ratios=[3, 2])
        _over_time(left, busy, figure)
        _lengths(right, busy, figure)
    return figure


def _over_time(axes: Axes, busy: Activity, figure: Figure) -> None:
    colours = figure.colours
    edges = np.linspace(busy.begin, busy.end, COLUMNS + 1)
    widths = np.diff(edges)
    starts, ends = busy.idle()
    idle = overlap(starts, ends, edges) / widths
    waiting: Floats = np.zeros(COLUMNS)
    if busy.requests:
        waiting = overlap(*common(starts, ends, *busy.requests), edges) / widths
    times = edges - busy.begin
    axes.stairs(waiting, times, fill=True, color=colours.failed)
    axes.stairs(idle, times, baseline=waiting, fill=True, color=_colour(busy, colours))
    time_axis(axes.xaxis, f"time since the start of the {busy.of}", busy.end - busy.begin)
    axes.set(
        xlim=(0, busy.end - busy.begin),
        ylim=(0, 1),
        yticks=(0, 0.25, 0.5, 0.75, 1),
        ylabel="share of time idle",
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.set_title("Idle time")
    if not busy.requests:
        return
    keys = [
        Patch(color=colours.failed, label="idle, requests in flight"),
        Patch(color=colours.waiting, label="idle, no request"),
    ]
    legend_above(axes, keys)


def _lengths(axes: Axes, busy: Activity, figure: Figure) -> None:
    colours = figure.colours
    starts, ends = busy.idle()
    lengths = ends - starts
    inside: Floats = np.zeros(len(lengths))
    if busy.requests:
        inside = time_before(ends, *busy.requests) - time_before(starts, *busy.requests)
    total = float(lengths.sum())
    gaps = f"{len(lengths):,} gap" + ("" if len(lengths) == 1 else "s")
    whole = busy.end - busy.begin
    figure.figures.append(
        f"idle: {duration(total)}, {percent(total / whole)} of {duration(whole)}, in {gaps}"
    )
    if not total:
        no_data(axes, "No idle time", colours)
        return
    if busy.requests:
        figure.figures.append(f"{duration(float(inside.sum()))} of it while requests were in flight")
    names, edges = length_classes(lengths)
    counts, _ = np.histogram(lengths, edges)
    sums, _ = np.histogram(lengths, edges, weights=lengths)
    red, _ = np.histogram(lengths, edges, weights=inside)
    rows = np.arange(len(names))
    axes.barh(rows, red, 0.62, color=colours.failed)
    axes.barh(rows, sums - red, 0.62, left=red, color=_colour(busy, colours))
    for row, count, seconds in zip(rows, counts, sums, strict=True):
        words = f"{duration(float(seconds))} in {count:,}" if count else "none"
        beside_bar(axes, float(seconds), float(row), words, colours)
    axes.set_title("Gaps by length")
    time_axis(axes.xaxis, "idle time in all", float(sums.max()))
    axes.set(xlim=(0, float(sums.max()) * 1.5), ylabel="length of a gap")
    axes.set_yticks(rows, names)
    axes.set_ylim(max(len(names), 3) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")


def _colour(busy: Activity, colours: Colours) -> str:
    """Return the colour of idle time without requests in flight, or of all if they are not known."""
    return colours.waiting if busy.requests else colours.grey


def length_classes(lengths: Floats) -> tuple[list[str], Floats]:
    """Return classes of lengths, each ten times as long as the one before: their names and edges.

    Examples
    --------
    >>> names, edges = length_classes(np.array([0.003, 0.015]))
    >>> names, edges.tolist()
    (['1 to 10 ms', '10 to 100 ms'], [0.001, 0.01, 0.1])
    """
    named = [row for row in _CLASSES if row[0] <= lengths.max() and row[1] > lengths.min()]
    return [name for _, _, name in named], np.array([low for low, _, _ in named] + [named[-1][1]])


_CLASSES = (
    (0.0, 1e-4, "under 0.1 ms"),
    (1e-4, 1e-3, "0.1 to 1 ms"),
    (1e-3, 1e-2, "1 to 10 ms"),
    (1e-2, 1e-1, "10 to 100 ms"),
    (1e-1, 1.0, "0.1 to 1 s"),
    (1.0, 10.0, "1 to 10 s"),
    (10.0, np.inf, "over 10 s"),
)
"""Least and largest length in seconds, and name."""
