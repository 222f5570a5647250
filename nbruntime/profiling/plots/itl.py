"""The picture of the times between tokens."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from nbruntime.display.numbers import duration, percent, rate
from nbruntime.profiling.plots.axes import (
    count_axis,
    legend_above,
    quantile_name,
    quantiles_in_words,
    supported_quantiles,
    time_axis,
)
from nbruntime.profiling.plots.colours import Colours, Theme
from nbruntime.profiling.plots.empty import NO_REQUESTS, empty_figure
from nbruntime.profiling.plots.figure import Figure, new_figure
from nbruntime.profiling.plots.token_gaps import Meanwhile, TokenGaps, token_gaps
from nbruntime.profiling.profile_data import ProfileData

SHORTEST = 1e-4
"""Seconds; events that arrived together are drawn here, as a logarithmic axis has no zero."""

LINE = 0.055
"""Height of a line of words, as a share of the axes."""

BARS = 0.5
"""Width of the longest bar, as a share of the axes; the rest is for words."""

WORDS = {
    Meanwhile.DECODE: "decode only",
    Meanwhile.PREFILL: "another's prefill",
    Meanwhile.RETRACTION: "retraction",
    Meanwhile.UNKNOWN: "unknown",
}
MARKERS = {
    Meanwhile.DECODE: "o",
    Meanwhile.PREFILL: "^",
    Meanwhile.RETRACTION: "D",
    Meanwhile.UNKNOWN: "s",
}


def plot_itl(data: ProfileData, *, theme: Theme | None = None) -> Figure:
    """Draw the inter-token latencies by token position, coloured by what else ran, and their distribution.

    Parameters
    ----------
    data : ProfileData
        A profile.
    theme : str, optional
        ``"light"`` or ``"dark"``; otherwise that of the notebook.

    Examples
    --------
    >>> from nbruntime.profiling.records import RequestRecord
    >>> plot_itl(ProfileData(requests=[RequestRecord("a", 0, 2, ((1.0, 1), (1.5, 1)))]))  # doctest: +ELLIPSIS
    Inter-token latency (ITL): time between two events with tokens of one request...
      median 500 ms
    """
    gaps = token_gaps(data)
    caption = "Inter-token latency (ITL): time between two events with tokens of one request, at this client"
    if len(gaps.seconds):
        mean = rate(float(gaps.tokens.mean()))
        caption += f"; {mean} token{'' if mean == '1' else 's'} per event. "
    else:
        caption += ". "
    caption += (
        "Colour and shape: what the server ran in that time, by its steps."
        if data.steps
        else "What else ran in that time is not known, as the profile has no steps of the server."
    )
    if not len(gaps.seconds):
        words = "No answer came in more than one event: stream the answers to see the times between tokens."
        words = words if data.requests else NO_REQUESTS
        return empty_figure(theme, title="Inter-token latency", words=words, caption=caption)
    with new_figure(theme, caption=caption, height=3.8) as figure:
        by_position, distribution = figure.subplots(1, 2, sharey=True, width_ratios=[2.3, 1])
        by_position.set_title("Inter-token latency")
        shown = np.maximum(gaps.seconds, SHORTEST)
        low, high = float(shown.min()), float(shown.max())
        middle, reach = np.sqrt(low * high), max(np.sqrt(high / low) * 1.25, 2.5)
        time_axis(by_position.yaxis, "ITL", high, log=True)
        by_position.set_ylim(middle / reach, middle * reach)
        _draw_positions(by_position, gaps, shown, figure.colours)
        _draw_distribution(distribution, gaps, shown, figure.colours)
        found = _mark_quantiles(distribution, gaps.seconds, figure.colours)
        figure.figures.append(quantiles_in_words(found))
        stalled = float((gaps.meanwhile == Meanwhile.PREFILL).mean())
        if stalled:
            figure.figures.append(f"{percent(stalled)} of the gaps held another request's prefill")
    return figure


def _draw_positions(axes: Axes, gaps: TokenGaps, shown: NDArray[np.float64], colours: Colours) -> None:
    size = 4.0 if len(shown) < 1000 else 2.5 if len(shown) < 20_000 else 1.2
    for kind in Meanwhile:
        chosen = gaps.meanwhile == kind
        if not chosen.any():
            continue
        important = kind is Meanwhile.RETRACTION
        axes.plot(
            gaps.position[chosen],
            shown[chosen],
            linestyle="none",
            marker=MARKERS[kind],
            markersize=max(size, 5.0) if important else size,
            markeredgewidth=0,
            alpha=1.0 if important else 0.55,
            color=colour_of(kind, colours),
            rasterized=len(shown) > 5000,
        )
    count_axis(axes.xaxis, "position of the token in the answer", whole=True)
    kinds = [kind for kind in Meanwhile if (gaps.meanwhile == kind).any()]
    handles = [
        Line2D(
            [], [], linestyle="none", marker=MARKERS[kind], color=colour_of(kind, colours), label=WORDS[kind]
        )
        for kind in kinds
    ]
    if kinds != [Meanwhile.UNKNOWN]:
        legend_above(axes, handles)


def _draw_distribution(axes: Axes, gaps: TokenGaps, shown: NDArray[np.float64], colours: Colours) -> None:
    low, high = axes.get_ylim()
    edges = np.geomspace(low, high, 61)
    base = np.zeros(60)
    for kind in Meanwhile:
        counts = np.histogram(shown[gaps.meanwhile == kind], edges)[0] / len(shown) * 100
        if counts.any():
            axes.barh(
                edges[:-1],
                counts,
                height=np.diff(edges),
                left=base,
                align="edge",
                color=colour_of(kind, colours),
                alpha=0.7,
            )
            base += counts
    axes.set_xlim(0, base.max() / BARS)
    axes.set_title("Distribution")
    count_axis(axes.xaxis, f"share of {len(shown):,} gap{'' if len(shown) == 1 else 's'} (%)")


def _mark_quantiles(axes: Axes, seconds: NDArray[np.float64], colours: Colours) -> dict[str, float]:
    """Mark quantiles by lines through the bars; their words stand beside them, none on another."""
    found = {}
    lowest = -np.inf
    for share in supported_quantiles(len(seconds)):
        at = float(np.quantile(seconds, share))
        shown = max(at, SHORTEST)
        found[quantile_name(share)] = at
        axes.axhline(shown, xmax=BARS + 0.02, color=colours.quiet, linewidth=0.8, linestyle=(0, (4, 3)))
        line = float(axes.transLimits.transform(axes.transScale.transform((0, shown)))[1])
        place = max(line, lowest)
        lowest = place + LINE
        words = f"{quantile_name(share)} {duration(at)}"
        axes.text(BARS + 0.04, place, words, transform=axes.transAxes, va="center", fontsize=9)
    return found


def colour_of(kind: Meanwhile, colours: Colours) -> str:
    """Return the colour of what ran."""
    return {
        Meanwhile.DECODE: colours.decode,
        Meanwhile.PREFILL: colours.prefill,
        Meanwhile.RETRACTION: colours.failed,
        Meanwhile.UNKNOWN: colours.grey,
    }[kind]
