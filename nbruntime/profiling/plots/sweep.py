"""The picture of a sweep: latency against throughput, one curve for each server."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray

from nbruntime.display.html import visible
from nbruntime.display.numbers import rate
from nbruntime.profiling.plots.axes import count_axis, quantile_name, time_axis
from nbruntime.profiling.plots.colours import Colours, Theme
from nbruntime.profiling.plots.empty import empty_figure
from nbruntime.profiling.plots.figure import Figure, new_figure
from nbruntime.profiling.sweep_point import SweepPoint, curves, knee

MARKERS = "osD^vP*"
WIDE = 20
"""Latencies whose highest is so many times the lowest get a logarithmic axis."""

TITLES = {"ttft": "Time to first token", "tpot": "Time per output token"}

NO_RUNS = "No runs were given."
NO_LATENCY = "No run has a latency: no answer was streamed."

DEFINITIONS = {
    "ttft": "TTFT: from sending the request to the first event with a token",
    "tpot": "TPOT: (E2E − TTFT) / (output tokens − 1)",
}


def plot_sweep(points: Iterable[SweepPoint], *, theme: Theme | None = None) -> Figure:
    """Draw latency against throughput for each server, with its load along the curve and its knee.

    Parameters
    ----------
    points : iterable of SweepPoint
        Those with the same label make a curve.
    theme : str, optional
        ``"light"`` or ``"dark"``; otherwise that of the notebook.

    Examples
    --------
    >>> runs = [(1, 1.0), (4, 1.1), (16, 4.4)]
    >>> points = [SweepPoint("a", load, load / e2e, ttft=e2e / 9, e2e=e2e) for load, e2e in runs]
    >>> plot_sweep(points)  # doctest: +ELLIPSIS
    Each point is a run...
      a: knee at 4 users
    """
    found = curves(points)
    everything = [point for curve in found.values() for point in curve]
    latencies = [name for name in ("ttft", "tpot") if any(getattr(point, name) for point in everything)]
    if not latencies:
        words = NO_LATENCY if everything else NO_RUNS
        caption = "Latency against throughput, a point for each run."
        return empty_figure(theme, title="Latency against throughput", words=words, caption=caption)
    goodput = any(point.goodput is not None for point in everything)
    with new_figure(theme, caption=_caption(everything, latencies), height=4.0) as figure:
        panels = np.atleast_1d(figure.subplots(1, len(latencies) + goodput))
        for axes, name in zip(panels, latencies, strict=False):
            _draw_latencies(axes, found, name, figure.colours)
        if goodput:
            _draw_goodput(panels[-1], found, figure.colours)
        if len(found) > 1:
            figure.legend(handles=panels[0].get_lines()[: len(found)], loc="outside upper right", ncols=4)
        figure.figures += [f"{label}: {_knee_in_words(curve)}" for label, curve in found.items()]
    return figure


def load_in_words(point: SweepPoint) -> str:
    """Write the load of a point with its unit.

    Examples
    --------
    >>> load_in_words(SweepPoint("a", 8, 100.0)), load_in_words(SweepPoint("a", 2.5, 100.0, loop="open"))
    ('8 users', '2.5 requests/s')
    """
    if np.isinf(point.load):
        return "all at once"
    unit = "requests/s" if point.loop == "open" else "user" if point.load == 1 else "users"
    return f"{rate(point.load)} {unit}"


def _knee_in_words(curve: Sequence[SweepPoint]) -> str:
    best = knee(curve)
    if best is not None:
        return f"knee at {load_in_words(best)}"
    return f"no knee up to {load_in_words(curve[-1])}" if len(curve) > 2 else "too few runs for a knee"


def _caption(points: Sequence[SweepPoint], latencies: Sequence[str]) -> str:
    loops = {point.loop for point in points}
    load = {
        frozenset({"open"}): "requests per second",
        frozenset({"closed"}): "users, each of whom sends the next request after an answer",
    }.get(frozenset(loops), "users, or requests per second of an open loop")
    quantiles = sorted({quantile_name(point.quantile) for point in points})
    words = f"Each point is a run; the number at it is the load: {load}. "
    words += f"Latency: {' or '.join(quantiles)} of the requests" if quantiles else "Latency"
    words += f". {'; '.join(DEFINITIONS[name] for name in latencies)}. "
    if any(point.intervals for point in points):
        words += "Thin lines: bootstrap intervals. "
    if any(point.doubt for point in points):
        words += "Hollow: " + "; ".join(sorted({point.doubt for point in points if point.doubt})) + ". "
    if any(point.goodput is not None for point in points):
        words += "Goodput: requests per second that met every threshold. "
    return words + "Ring: the knee, the load with the most throughput for its latency (throughput / E2E)."


def _draw_latencies(axes: Axes, found: dict[str, list[SweepPoint]], name: str, colours: Colours) -> None:
    """Draw one latency against throughput: a point for each run, with its load."""
    axes.set_title(TITLES[name])
    values = [value for curve in found.values() for point in curve if (value := getattr(point, name))]
    low, high = min(values), max(values)
    time_axis(axes.yaxis, name.upper(), high, log=high / low > WIDE)
    axes.set_ylim(*((low / 1.5, high * 2) if high / low > WIDE else (0, high * 1.2)))
    tops = [max(point.throughput for point in curve) for curve in found.values()]
    lowest = min(point.throughput for curve in found.values() for point in curve)
    # Servers of different size are comparable on a logarithmic axis only.
    log = min(tops) * 5 < max(tops) and lowest > 0
    count_axis(axes.xaxis, "output tokens/s", log=log)
    if log:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.set_xlim(*((lowest / 1.4, max(tops) * 1.8) if log else (0, max(tops) * 1.15)))
    for number, (label, curve) in enumerate(found.items()):
        known = [point for point in curve if getattr(point, name)]
        axes.plot(
            [point.throughput for point in known],
            [getattr(point, name) for point in known],
            color=_colour(number, colours),
            marker=_marker(number),
            markersize=5,
            label=visible(label),
        )
    for number, curve in enumerate(found.values()):
        _draw_points(axes, [point for point in curve if getattr(point, name)], name, number, colours)


def _draw_points(axes: Axes, curve: Sequence[SweepPoint], name: str, number: int, colours: Colours) -> None:
    """Draw the intervals, loads and doubts of a curve's points, and its knee."""
    best = knee(curve)
    colour = _colour(number, colours)
    written: list[NDArray[np.float64]] = []
    for point in curve:
        x, y = point.throughput, getattr(point, name)
        axes.vlines(x, *point.intervals.get(name, (y, y)), color=colour, linewidth=0.8)
        axes.hlines(y, *point.intervals.get("throughput", (x, x)), color=colour, linewidth=0.8)
        if point.doubt:
            _draw_hollow(axes, x, y, number, colours)
        place = axes.transLimits.transform(axes.transScale.transform((x, y)))  # in shares of the axes
        if point is best:
            axes.plot([x], [y], "o", markersize=13, markerfacecolor="none", markeredgecolor=colours.ink)
        elif point is not curve[-1] and any(np.abs(place - other).max() < 0.05 for other in written):
            continue
        written.append(place)
        axes.annotate(
            _load(point),
            (x, y),
            xytext=(8, -7) if point is best else (5, -5),
            textcoords="offset points",
            va="top",
            fontsize=9,
            fontweight="bold" if point is best else "normal",
        )


def _draw_goodput(axes: Axes, found: dict[str, list[SweepPoint]], colours: Colours) -> None:
    axes.set_title("Goodput")
    loops = {point.loop for curve in found.values() for point in curve}
    loads = {frozenset({"open"}): "requests/s", frozenset({"closed"}): "users"}
    count_axis(axes.xaxis, f"load ({loads.get(frozenset(loops), 'users or requests/s')})")
    count_axis(axes.yaxis, "requests/s")
    for number, curve in enumerate(found.values()):
        known = [point for point in curve if point.goodput is not None and np.isfinite(point.load)]
        loads_of = [point.load for point in known]
        values = [point.goodput or 0.0 for point in known]
        axes.plot(loads_of, values, color=_colour(number, colours), marker=_marker(number), markersize=5)
        for point, x, y in zip(known, loads_of, values, strict=True):
            spread = point.intervals.get("goodput", (y, y))
            axes.vlines(x, *spread, color=_colour(number, colours), linewidth=0.8)
            if point.doubt:
                _draw_hollow(axes, x, y, number, colours)
    axes.margins(x=0.05, y=0.08)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)


def _draw_hollow(axes: Axes, x: float, y: float, number: int, colours: Colours) -> None:
    (mark,) = axes.plot([x], [y], _marker(number), color=_colour(number, colours), markersize=5)
    mark.set_markerfacecolor(colours.background)


def _load(point: SweepPoint) -> str:
    return "all" if np.isinf(point.load) else rate(point.load)


def _colour(number: int, colours: Colours) -> str:
    return colours.hues[number % len(colours.hues)]


def _marker(number: int) -> str:
    return MARKERS[number % len(MARKERS)]
