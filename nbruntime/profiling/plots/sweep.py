"""The picture of a sweep: latency against throughput, one curve for each server."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes

from nbruntime.display.html import visible
from nbruntime.display.numbers import rate
from nbruntime.profiling.plots.axes import count_axis, no_data, quantile_name, time_axis
from nbruntime.profiling.plots.colours import Colours, Theme
from nbruntime.profiling.plots.figure import Figure, new_figure
from nbruntime.profiling.plots.sweep_point import SweepPoint, curves, knee

MARKERS = "osD^vP*"
WIDE = 20
"""Latencies whose highest is so many times the lowest get a logarithmic axis."""

TITLES = {"ttft": "Time to first token", "tpot": "Time per output token", "e2e": "End to end"}

DEFINITIONS = {
    "ttft": "TTFT: from sending the request to the first event with a token",
    "tpot": "TPOT: (E2E - TTFT) / (output tokens - 1)",
    "e2e": "E2E: from sending the request to its end",
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
    >>> points = [SweepPoint("a", load, load / e2e, e2e=e2e) for load, e2e in [(1, 1.0), (4, 1.1), (16, 4.4)]]
    >>> plot_sweep(points)  # doctest: +ELLIPSIS
    Each point is a run...
      a: knee at 4 users
    """
    found = curves(points)
    everything = [point for curve in found.values() for point in curve]
    latencies = [name for name in ("ttft", "tpot") if any(getattr(point, name) for point in everything)]
    latencies = latencies or ["e2e"]
    with new_figure(theme, caption=_caption(everything, latencies), height=4.0) as figure:
        panels = np.atleast_1d(figure.subplots(1, len(latencies)))
        if not any(getattr(point, name) for point in everything for name in latencies):
            no_data(panels[0], "No run has a latency: no request was answered.", figure.colours)
            return figure
        for axes, name in zip(panels, latencies, strict=True):
            _draw_panel(axes, found, name, figure.colours)
        if len(found) > 1:
            panels[0].legend(loc="upper left")
        for label, curve in found.items():
            best = knee(curve)
            if best is not None:
                figure.figures.append(f"{label}: knee at {load_in_words(best)}")
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
    return words + "Knee: the load with the most throughput for its latency (throughput / E2E)."


def _draw_panel(axes: Axes, found: dict[str, list[SweepPoint]], name: str, colours: Colours) -> None:
    axes.set_title(
        {"ttft": "Time to first token", "tpot": "Time per output token", "e2e": "End to end"}[name]
    )
    values = [value for curve in found.values() for point in curve if (value := getattr(point, name))]
    low, high = min(values), max(values)
    log = high / low > WIDE
    time_axis(axes.yaxis, name.upper(), high, log=log)
    if log:
        axes.set_ylim(low / 1.5, high * 2)
    else:
        axes.set_ylim(0, high * 1.2)
    count_axis(axes.xaxis, "output tokens per second")
    axes.set_xlim(0, max(point.throughput for curve in found.values() for point in curve) * 1.12)
    for number, (label, curve) in enumerate(found.items()):
        colour = colours.hues[number % len(colours.hues)]
        known = [point for point in curve if getattr(point, name)]
        _draw_curve(axes, label, known, name, colour, MARKERS[number % len(MARKERS)])
        best = knee(curve)
        if best is not None and getattr(best, name):
            _mark_knee(axes, best, name, colours)


def _draw_curve(
    axes: Axes, label: str, curve: Sequence[SweepPoint], name: str, colour: str, marker: str
) -> None:
    across = [point.throughput for point in curve]
    up = [getattr(point, name) for point in curve]
    axes.plot(across, up, color=colour, marker=marker, markersize=5, label=visible(label))
    for point, x, y in zip(curve, across, up, strict=True):
        low, high = point.intervals.get(name, (y, y))
        axes.vlines(x, low, high, color=colour, linewidth=0.8)
        left, right = point.intervals.get("throughput", (x, x))
        axes.hlines(y, left, right, color=colour, linewidth=0.8)
        if point.doubt:
            axes.plot([x], [y], marker=marker, markersize=5, color=colour, markerfacecolor="white")
        axes.annotate(
            "all" if np.isinf(point.load) else rate(point.load),
            (x, y),
            xytext=(4, -5),
            textcoords="offset points",
            va="top",
            fontsize=9,
        )


def _mark_knee(axes: Axes, best: SweepPoint, name: str, colours: Colours) -> None:
    at = (best.throughput, getattr(best, name))
    axes.plot(*at, marker="o", markersize=13, markerfacecolor="none", markeredgecolor=colours.ink)
    axes.annotate(
        f"knee: {load_in_words(best)}", at, xytext=(-9, 9), textcoords="offset points", ha="right", fontsize=9
    )
