"""`plot_operators`: the operators and kernels that took most time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from nbruntime.display.numbers import duration, percent
from nbruntime.profiling.plots.axes import beside_bar, time_axis
from nbruntime.profiling.plots.colours import Theme
from nbruntime.profiling.plots.empty import empty_figure
from nbruntime.profiling.plots.figure import Figure, new_figure
from nbruntime.profiling.plots.trace_data import NO_TRACE, class_legend, short_name
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.trace.trace import Trace


class Row(NamedTuple):
    """All calls of one operator or kernel."""

    name: str
    kind: str
    calls: int
    seconds: float


def plot_operators(data: ProfileData, *, top: int = 15, theme: Theme | None = None) -> Figure:
    """Draw the operators with most time of their own; with a GPU, the kernels with most time first.

    Parameters
    ----------
    data : ProfileData
        A profile with a trace.
    top : int
        Number of operators, and of kernels.
    theme : str or None
        ``"light"``, ``"dark"``, or None for the theme of the notebook.

    Examples
    --------
    >>> plot_operators(ProfileData()).caption
    "Time of operators and kernels, from the trace of the server's profiler."
    """
    tables = _tables(data.trace, top) if data.trace is not None else {}
    if data.trace is None or not tables:
        words = NO_TRACE if data.trace is None else "The trace has no operator and no kernel."
        caption = "Time of operators and kernels, from the trace of the server's profiler."
        return empty_figure(theme, title="Operators", words=words, caption=caption)
    caption = "From the trace of the server's profiler, all ranks and threads together. "
    if "Kernels" in tables:
        caption += "Kernels: time on the device. "
    if "Operators" in tables:
        caption += "Operators: time on the CPU without the operators called inside. "
    caption += "Share: of the time of all of them, also those not shown."
    rows = [len(table) for table, _ in tables.values()]
    with new_figure(theme, caption=caption, height=0.25 * sum(rows) + 0.95 * len(rows)) as figure:
        panels = figure.subplots(len(rows), 1, squeeze=False, height_ratios=[count + 1.5 for count in rows])
        for axes, (title, (table, whole)) in zip(panels[:, 0], tables.items(), strict=True):
            _bars(axes, title, table, whole, figure)
        class_legend(
            panels[0, 0], {row.kind for table, _ in tables.values() for row in table}, figure.colours
        )
    return figure


def _tables(trace: Trace, top: int) -> dict[str, tuple[list[Row], float]]:
    """Return the rows with most time and the seconds of all, by title; those without time are left out."""
    found = {
        "Kernels": [Row(row.name, row.kind, row.calls, row.total) for row in trace.kernels()],
        "Operators": [Row(row.name, row.kind, row.calls, row.self_time) for row in trace.operators()],
    }
    sums = {title: sum(row.seconds for row in rows) for title, rows in found.items()}
    return {title: (rows[:top], sums[title]) for title, rows in found.items() if sums[title]}


def _bars(axes: Axes, title: str, rows: Sequence[Row], whole: float, figure: Figure) -> None:
    colours = figure.colours
    places = range(len(rows))
    seconds = [row.seconds for row in rows]
    axes.barh(places, seconds, 0.66, color=[colours.of_class(row.kind) for row in rows])
    for place, row in enumerate(rows):
        calls = f"{row.calls:,} call" + ("" if row.calls == 1 else "s")
        words = f"{duration(row.seconds)}, {percent(row.seconds / whole)}, {calls}"
        beside_bar(axes, row.seconds, place, words, colours)
    axes.set_yticks(places, [short_name(row.name) for row in rows])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    label = "time on the device" if title == "Kernels" else "time without inner operators"
    time_axis(axes.xaxis, label, seconds[0])
    axes.set(xlim=(0, seconds[0] * 1.4), ylim=(len(rows) - 0.4, -0.6), title=title)
    most = f"{duration(seconds[0])} ({percent(seconds[0] / whole)})"
    figure.figures.append(f"{title}: most time in {short_name(rows[0].name)}, {most}")
