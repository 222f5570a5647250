"""`plot_comparison`: two profiles side by side, and what changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from nbruntime.display.html import shortened
from nbruntime.display.numbers import duration, percent, rate
from nbruntime.profiling.plots.axes import beside_bar, count_axis, no_data, time_axis
from nbruntime.profiling.plots.colours import Colours, Theme
from nbruntime.profiling.plots.figure import Figure, new_figure
from nbruntime.profiling.plots.intervals import Floats, overlap
from nbruntime.profiling.plots.spans import span_of
from nbruntime.profiling.plots.step_table import STAGES, Stage, by_stage, stage_colour
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.trace.intervals import union

LATENCY_QUANTILES = np.linspace(0, 1, 401)

CAPTION = (
    "{a} against {b}. TTFT: from sending a request to its first event with a token. ITL: time between two "
    "events with tokens. Both as the share of values that are not longer, of finished and streamed requests. "
    "Tokens/s: generated tokens, by the time from the first sending to the last end. "
    "Steps: their share of the profile's time; the rest is time between steps."
)


@dataclass(frozen=True)
class Compared:
    """What is compared of one profile."""

    name: str
    ttft: Floats
    itl: Floats
    token_rate: float
    shares: dict[Stage, float]  # by stage; empty without steps


def plot_comparison(
    a: ProfileData, b: ProfileData, *, names: tuple[str, str] = ("A", "B"), theme: Theme | None = None
) -> Figure:
    """Draw two profiles side by side: TTFT, ITL, tokens/s and the shares of steps.

    Parameters
    ----------
    a, b : ProfileData
        What changes are counted from, and to.
    names : tuple of str
        Their names in the picture.
    theme : str or None
        ``"light"``, ``"dark"``, or None for the theme of the notebook.

    Examples
    --------
    >>> from nbruntime.profiling.records import RequestRecord
    >>> slow = ProfileData(requests=[RequestRecord("r", 0.0, 2.0, ((0.4, 1),), completion_tokens=1)])
    >>> fast = ProfileData(requests=[RequestRecord("r", 0.0, 1.0, ((0.3, 1),), completion_tokens=1)])
    >>> plot_comparison(slow, fast, names=("before", "after")).figures
    ['TTFT: median 400 ms → 300 ms (−25 %)', 'Tokens/s: 0.5 → 1 (+100 %)']
    """
    first, second = compared(a, shortened(names[0], 30)), compared(b, shortened(names[1], 30))
    with new_figure(theme, caption=CAPTION.format(a=names[0], b=names[1]), height=4.6) as figure:
        (ttft, itl), (rates, shares) = figure.subplots(2, 2, height_ratios=[2.2, 1])
        _latencies(ttft, "TTFT", first, second, lambda each: each.ttft, figure)
        _latencies(itl, "ITL", first, second, lambda each: each.itl, figure)
        _rates(rates, first, second, figure)
        _shares(shares, first, second, figure)
    return figure


def compared(data: ProfileData, name: str) -> Compared:
    """Return what is compared of a profile."""
    figures = data.figures
    shares: dict[Stage, float] = {}
    start, end = span_of(data)
    if data.steps:
        for stage, table in by_stage(data.steps).items():
            busy = overlap(*union(table.starts, table.ends), np.array([start, end]))
            shares[stage] = float(busy[0] / (end - start))
    return Compared(name, figures.ttft.values, figures.itl.values, figures.token_rate or 0.0, shares)


def change(before: float, after: float) -> str:
    """Write a change in percent; empty if there was nothing before.

    Examples
    --------
    >>> change(0.4, 0.3), change(2.0, 2.0)
    ('−25 %', '±0 %')
    """
    if not before:
        return ""
    share = after / before - 1
    return f"{'+' if share > 0 else '−'}{percent(abs(share))}" if abs(share) >= 0.0005 else "±0 %"


def _pair_colours(colours: Colours) -> tuple[str, str]:
    return colours.grey, colours.green


def _latencies(
    axes: Axes, name: str, first: Compared, second: Compared, of: Callable[[Compared], Floats], figure: Figure
) -> None:
    known = [each for each in (first, second) if len(of(each))]
    if not known:
        what = "two events with tokens" if name == "ITL" else "a token"
        no_data(axes, f"No finished, streamed request with {what}", figure.colours)
        axes.set_title(name)
        return
    longest = max(float(np.quantile(of(each), 0.995)) for each in known) * 1.05
    looks = zip((first, second), _pair_colours(figure.colours), ((0, (4, 2)), "solid"), strict=True)
    for each, colour, line in looks:
        if each in known:
            values = np.quantile(of(each), LATENCY_QUANTILES)
            axes.plot(values, LATENCY_QUANTILES, color=colour, linestyle=line, linewidth=2, label=each.name)
    medians = [float(np.median(of(each))) for each in known]
    words = f"{name}: median {' → '.join(map(duration, medians))}"
    words += f" ({change(*medians)})" if len(known) == 2 else f" ({known[0].name} only)"
    figure.figures.append(words)
    time_axis(axes.xaxis, name, longest)
    axes.set(xlim=(0, longest), ylim=(0, 1.02), yticks=(0, 0.25, 0.5, 0.75, 1), title=words)
    axes.set_ylabel("requests" if name == "TTFT" else "gaps between events")
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.legend(loc="lower right")


def _rates(axes: Axes, first: Compared, second: Compared, figure: Figure) -> None:
    rates = [first.token_rate, second.token_rate]
    if not any(rates):
        no_data(axes, "No token was received", figure.colours)
        axes.set_title("Tokens/s")
        return
    axes.barh([0, 1], rates, 0.6, color=list(_pair_colours(figure.colours)))
    for row, value in enumerate(rates):
        beside_bar(axes, value, row, rate(value), figure.colours)
    words = f"Tokens/s: {rate(rates[0])} → {rate(rates[1])}"
    if difference := change(*rates):
        words += f" ({difference})"
    figure.figures.append(words)
    count_axis(axes.xaxis, "generated tokens per second")
    axes.set(xlim=(0, max(rates) * 1.15), title=words)
    _two_rows(axes, first, second)


def _shares(axes: Axes, first: Compared, second: Compared, figure: Figure) -> None:
    if not first.shares or not second.shares:
        missing = " and ".join(each.name for each in (first, second) if not each.shares)
        no_data(axes, f"No steps are known of {missing}", figure.colours)
        axes.set_title("Steps")
        return
    left = np.zeros(2)
    changes = []
    for stage in STAGES:
        widths = np.array([first.shares[stage], second.shares[stage]])
        axes.barh([0, 1], widths, 0.6, left=left, color=stage_colour(stage, figure.colours), label=stage)
        for row, width in enumerate(widths):
            if width > 0.08:
                middle = (left[row] + width / 2, row)
                axes.annotate(
                    percent(width), middle, ha="center", va="center", color=figure.colours.background
                )
        left += widths
        changes.append(f"{stage} {percent(widths[0])} → {percent(widths[1])}")
    figure.figures.append(f"Steps: {', '.join(changes)}")
    axes.set(xlim=(0, 1), xlabel="share of time", title="Steps")
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1.02), ncols=2)
    _two_rows(axes, first, second)


def _two_rows(axes: Axes, first: Compared, second: Compared) -> None:
    axes.set_yticks([0, 1], [first.name, second.name])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
