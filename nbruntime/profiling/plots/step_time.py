"""`plot_step_time`: how long a step takes, against what it computes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from nbruntime.display.numbers import duration, rate
from nbruntime.profiling.plots.axes import count_axis, no_data, time_axis
from nbruntime.profiling.plots.colours import Theme
from nbruntime.profiling.plots.empty import empty_figure
from nbruntime.profiling.plots.figure import Figure, new_figure
from nbruntime.profiling.plots.intervals import Floats
from nbruntime.profiling.plots.step_table import NO_STEPS, Stage, by_stage, stage_colour
from nbruntime.profiling.profile_data import ProfileData

MOST_POINTS = 4_000
"""Steps that are drawn one by one; of more, evenly picked ones. Medians and lines are those of all."""

MOST_SIZES = 40
"""If there are more sizes, neighbours share a median."""

STEPS_A_GROUP, MOST_GROUPS = 8, 16
"""Neighbours in groups of equal numbers, at least of so many steps."""


@dataclass(frozen=True)
class Groups:
    """Durations by size: median, and the quantiles at 10 % and 90 %, of `counts` steps each."""

    sizes: Floats
    medians: Floats
    low: Floats
    high: Floats
    counts: Floats


@dataclass(frozen=True)
class Line:
    """Duration = `fixed` + `each` * size, in seconds."""

    fixed: float
    each: float


def plot_step_time(data: ProfileData, *, theme: Theme | None = None) -> Figure:
    """Draw the duration of decode steps against their batch size, and of prefill steps against their tokens.

    Parameters
    ----------
    data : ProfileData
        A profile with steps.
    theme : str or None
        ``"light"``, ``"dark"``, or None for the theme of the notebook.

    Examples
    --------
    >>> from nbruntime.protocol.step_log import Step
    >>> steps = [Step("DECODE", 0.0, 0.010 + 0.002 * size, size, size) for size in (1, 2, 4, 8)]
    >>> plot_step_time(ProfileData(steps=steps)).figures
    ['decode: 10 ms + 2 ms per sequence']
    """
    tables = by_stage(data.steps)
    drawn = [len(table) for table in tables.values()]
    caption = (
        "One dot per step. Circles: the median of steps of equal size, or of neighbours where sizes are "
        "many, with the range from 10 % to 90 %. Line: least squares through the medians, by number of "
        "steps. Its start is what a step costs however small it is; its slope is what each further one adds."
    )
    if max(drawn) > MOST_POINTS:
        caption += f" At most {MOST_POINTS:,} dots are drawn of {max(drawn):,}, evenly picked."
    if not any(drawn):
        caption = "How long the server's steps take."
        return empty_figure(theme, title="Step time", words=NO_STEPS, caption=caption)
    with new_figure(theme, caption=caption, height=3.4) as figure:
        left, right = figure.subplots(1, 2)
        decode, prefill = tables["decode"], tables["prefill"]
        _panel(left, "decode", decode.batch_sizes, decode.durations, figure)
        _panel(right, "prefill", prefill.tokens, prefill.durations, figure)
    return figure


def group(sizes: Floats, seconds: Floats) -> Groups:
    """Put steps of equal size together; if there are too many sizes, neighbours in equal numbers."""
    order = np.argsort(sizes, kind="stable")
    sizes, seconds = sizes[order], seconds[order]
    starts = np.flatnonzero(np.concatenate([[True], np.diff(sizes) > 0]))
    if len(starts) > MOST_SIZES:
        groups = min(max(len(sizes) // STEPS_A_GROUP, 3), MOST_GROUPS)
        even = np.linspace(0, len(sizes), groups + 1)[:-1]
        # Steps of one size stay together: a bound moves to where the next size begins.
        starts = np.unique(starts[np.searchsorted(starts, even).clip(max=len(starts) - 1)])
    parts = np.split(seconds, starts[1:])
    quantiles = np.array([np.quantile(part, (0.1, 0.5, 0.9)) for part in parts])
    return Groups(
        np.array([np.median(part) for part in np.split(sizes, starts[1:])]),
        quantiles[:, 1],
        quantiles[:, 0],
        quantiles[:, 2],
        np.array([float(len(part)) for part in parts]),
    )


def fit(groups: Groups) -> Line | None:
    """Lay a line through medians; None if there are fewer than three, or if it does not rise."""
    if len(groups.sizes) < 3:
        return None
    each, fixed = np.polyfit(groups.sizes, groups.medians, 1, w=np.sqrt(groups.counts))
    if fixed < 0:  # no step takes less than no time: lay it through the origin
        fixed = 0.0
        weighted = groups.sizes * groups.counts
        each = (weighted @ groups.medians) / (weighted @ groups.sizes)
    return Line(float(fixed), float(each)) if each > 0 else None


def _panel(axes: Axes, stage: Stage, sizes: Floats, seconds: Floats, figure: Figure) -> None:
    colours = figure.colours
    if not len(sizes):
        no_data(axes, f"No {stage} step", colours)
        return
    colour = stage_colour(stage, colours)
    picked = np.linspace(0, len(sizes) - 1, min(len(sizes), MOST_POINTS)).astype(int)
    alpha = 0.6 if len(picked) < 200 else 0.2
    axes.plot(sizes[picked], seconds[picked], ".", color=colour, alpha=alpha, markersize=5, markeredgewidth=0)
    groups = group(sizes, seconds)
    axes.vlines(groups.sizes, groups.low, groups.high, color=colours.ink, linewidth=0.8)
    axes.plot(groups.sizes, groups.medians, "o", color=colour, markersize=6, markeredgecolor=colours.ink)
    right = float(sizes.max()) * 1.05 or 1.0
    top = max(float(np.quantile(seconds, 0.99)), float(groups.high.max())) * 1.3 or 1e-3
    line = fit(groups)
    if line is not None:
        axes.plot([0, right], [line.fixed, line.fixed + line.each * right], color=colours.ink, linewidth=1)
        words = _words(line, stage)
        axes.text(0.03, 0.97, words, transform=axes.transAxes, va="top", linespacing=1.4)
        figure.figures.append(f"{stage}: {', '.join(words.splitlines())}")
    if beyond := int((seconds > top).sum()):
        steps = f"{beyond:,} step" + ("" if beyond == 1 else "s")
        words = f"↑ {steps} of up to {duration(float(seconds.max()))}"
        axes.text(1, 1.01, words, transform=axes.transAxes, ha="right", va="bottom", color=colours.quiet)
    what = "batch size (sequences)" if stage == "decode" else "tokens computed"
    axes.set(xlim=(0, right), ylim=(0, top), title=f"{stage.capitalize()} steps")
    count_axis(axes.xaxis, what, whole=True)
    time_axis(axes.yaxis, "duration", top)


def _words(line: Line, stage: Stage) -> str:
    fixed = f"{duration(line.fixed)} + " if line.fixed else ""
    if stage == "decode":
        return f"{fixed}{duration(line.each)} per sequence"
    return f"{fixed}{duration(line.each * 1000)} per 1,000 tokens\n{rate(1 / line.each)} tokens/s at most"
