"""`plot_steps`: what the server computed at each time."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from nbruntime.display.numbers import duration, percent
from nbruntime.profiling.plots.axes import count_axis, legend_above, time_axis
from nbruntime.profiling.plots.colours import Theme
from nbruntime.profiling.plots.empty import empty_figure
from nbruntime.profiling.plots.figure import Figure, new_figure
from nbruntime.profiling.plots.intervals import Floats, highest, overlap
from nbruntime.profiling.plots.spans import span_of
from nbruntime.profiling.plots.step_table import (
    NO_STEPS,
    STAGES,
    Stage,
    StepTable,
    by_stage,
    stage_colour,
)
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.trace.intervals import union

COLUMNS = 720
"""Columns of the batch size over the width of the plot; finer than the eye."""

SHARES = 90
"""Columns of the shares of time."""


def plot_steps(data: ProfileData, *, theme: Theme | None = None) -> Figure:
    """Draw the batch size of the server's steps over time, and the share of time by stage.

    Parameters
    ----------
    data : ProfileData
        A profile with steps.
    theme : str or None
        ``"light"``, ``"dark"``, or None for the theme of the notebook.

    Examples
    --------
    >>> from nbruntime.protocol.step_log import Step
    >>> steps = [Step("EXTEND", 10.0, 0.3, 1, 64), Step("DECODE", 10.3, 0.1, 1, 1)]
    >>> plot_steps(ProfileData(started=10.0, ended=10.5, steps=steps)).figures[0]
    '1 prefill step: 300 ms, 60 % of the time'
    """
    tables = by_stage(data.steps)
    start, end = span_of(data)
    caption = (
        "Steps are forward passes of the model. Above: sequences in a step's batch; in each column of "
        f"{duration((end - start) / COLUMNS)} the mean over time, and the largest in a lighter tone. "
        "Below: share of the time that steps took; the rest is time between steps."
    )
    if not any(map(len, tables.values())):
        caption = "Steps are forward passes of the model."
        return empty_figure(theme, title="Steps", words=NO_STEPS, caption=caption)
    with new_figure(theme, caption=caption, height=3.6) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.6, 1])
        _batch_sizes(above, tables, start, end, figure)
        _shares(below, tables, start, end, figure)
    figure.figures += _figures(tables, start, end)
    return figure


def _batch_sizes(
    axes: Axes, tables: dict[Stage, StepTable], start: float, end: float, figure: Figure
) -> None:
    edges = np.linspace(0.0, end - start, COLUMNS + 1)
    for stage in ("decode", "prefill"):  # prefill has the smaller batches and stands in front
        table = tables[stage]
        if not len(table):
            continue
        starts, ends = table.starts - start, table.ends - start
        seconds = overlap(starts, ends, edges)
        sizes = overlap(starts, ends, edges, table.batch_sizes)
        means = np.divide(sizes, seconds, out=np.zeros(COLUMNS), where=seconds > 0)
        colour = stage_colour(stage, figure.colours)
        axes.stairs(
            highest(starts, ends, table.batch_sizes, edges), edges, fill=True, color=colour, alpha=0.35
        )
        axes.stairs(means, edges, fill=True, color=colour)
    count_axis(axes.yaxis, "batch size (sequences)", whole=True)
    axes.set(xlim=(0, end - start), ylim=(0, None))
    axes.set_title("Steps")
    legend_above(
        axes,
        [
            Patch(color=stage_colour(stage, figure.colours), label=stage)
            for stage in STAGES
            if len(tables[stage])
        ],
    )


def _shares(axes: Axes, tables: dict[Stage, StepTable], start: float, end: float, figure: Figure) -> None:
    edges = np.linspace(0.0, end - start, SHARES + 1)
    base: Floats = np.zeros(SHARES)
    for stage in STAGES:
        starts, ends = union(tables[stage].starts - start, tables[stage].ends - start)
        top = base + overlap(starts, ends, edges) / np.diff(edges)
        axes.stairs(top, edges, baseline=base, fill=True, color=stage_colour(stage, figure.colours))
        base = top
    time_axis(axes.xaxis, "time since the start of the profile", end - start)
    axes.set(ylim=(0, 1), yticks=(0, 0.5, 1), ylabel="share of time")
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    figure.align_ylabels()


def _figures(tables: dict[Stage, StepTable], start: float, end: float) -> list[str]:
    lines = []
    for stage, table in tables.items():
        seconds = _length(table.starts, table.ends)
        steps = f"{len(table):,} {stage} step" + ("" if len(table) == 1 else "s")
        lines.append(f"{steps}: {duration(seconds)}, {percent(seconds / (end - start))} of the time")
    every = [
        np.concatenate([getattr(table, name) for table in tables.values()]) for name in ("starts", "ends")
    ]
    return [*lines, f"idle: {percent(1 - _length(*every) / (end - start))} of the time"]


def _length(starts: Floats, ends: Floats) -> float:
    starts, ends = union(starts, ends)
    return float((ends - starts).sum())
