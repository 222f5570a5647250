"""The picture of the times to first token."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from nbruntime.display.numbers import duration, percent
from nbruntime.profiling.plots.axes import (
    count_axis,
    quantile_name,
    quantiles_in_words,
    supported_quantiles,
    time_axis,
)
from nbruntime.profiling.plots.colours import Colours, Theme
from nbruntime.profiling.plots.curves import draw_share_curve
from nbruntime.profiling.plots.empty import NO_REQUESTS, empty_figure
from nbruntime.profiling.plots.figure import Figure, new_figure
from nbruntime.profiling.plots.ttft_groups import Split, telling_split
from nbruntime.profiling.profile_data import ProfileData

WIDE = 20
"""Times of which nine in ten differ by more than this factor get a logarithmic axis."""

ROOM = 0.2
"""Width of the words of a quantile, as a share of the axes."""


def plot_ttft(data: ProfileData, *, theme: Theme | None = None) -> Figure:
    """Draw the distribution of the times to first token, by cached share or prompt length where it matters.

    Parameters
    ----------
    data : ProfileData
        A profile.
    theme : str, optional
        ``"light"`` or ``"dark"``; otherwise that of the notebook.

    Examples
    --------
    >>> from nbruntime.profiling.records import RequestRecord
    >>> data = ProfileData(requests=[RequestRecord("a", 0, 2, ((1.0, 1), (1.5, 1)))])
    >>> plot_ttft(data)  # doctest: +ELLIPSIS
    Time to first token (TTFT): from sending the request to the first event with a token...
      median 1 s
    """
    requests = [request for request in data.requests if request.arrivals and request.status != "failed"]
    split = telling_split(requests)
    caption = (
        "Time to first token (TTFT): from sending the request to the first event with a token, at this "
        "client. A curve gives the share of requests that had it by then; failed requests do not count."
    )
    if split:
        caption += f" The {split.by} explains {percent(split.share)} of the variance of the times' ranks."
    if not requests:
        words = "No request has a time to first token: stream the answers to see it."
        if all(request.status == "failed" for request in data.requests):
            words = "All requests failed." if data.requests else NO_REQUESTS
        return empty_figure(theme, title="Time to first token", words=words, caption=caption)
    with new_figure(theme, caption=caption, height=3.5) as figure:
        axes = figure.subplots()
        axes.set_title("Time to first token")
        ttft = np.sort([request.ttft or 0.0 for request in requests])
        _set_axes(axes, ttft)
        _draw_curves(axes, ttft, split, figure.colours)
        found = _mark(axes, ttft, figure.colours)
        figure.figures.append(quantiles_in_words(found))
    return figure


def _set_axes(axes: Axes, ttft: NDArray[np.float64]) -> None:
    low, high = float(ttft[0]), max(float(ttft[-1]), 1e-6)
    most, least = np.quantile(ttft, [0.95, 0.05])
    log = low > 0 and most / least > WIDE  # single outliers make no logarithmic axis
    time_axis(axes.xaxis, "TTFT", high, log=log)
    if log:
        axes.set_xlim(low / (high / low) ** 0.25, high * 1.05)  # room for words on the left
    else:
        axes.set_xlim(0, high * 1.05)
    count_axis(axes.yaxis, "share of requests (%)")
    axes.set_ylim(0, 104)


def _draw_curves(axes: Axes, ttft: NDArray[np.float64], split: Split | None, colours: Colours) -> None:
    groups = []
    for group, colour, dashes in zip(
        split.groups if split else [],
        (colours.orange, colours.sky, colours.green, colours.purple, colours.red, colours.grey),
        ("-", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (5, 3)), "-"),
        strict=False,
    ):
        words = f"{group.name}\n{len(group.ttft):,} requests, median {duration(float(np.median(group.ttft)))}"
        look = {"color": colour, "linestyle": dashes, "linewidth": 1.3, "label": words}
        groups.append(draw_share_curve(axes, group.ttft, **look))
    whole = draw_share_curve(
        axes, ttft, color=colours.ink, linewidth=1.6, label=f"all {len(ttft):,} requests"
    )
    if split:
        axes.legend(
            handles=[whole, *groups],
            title=f"By {split.by}",
            title_fontsize=9,
            alignment="left",
            loc="upper left",
            bbox_to_anchor=(1.01, 1),
            labelspacing=0.9,
        )


def _mark(axes: Axes, ttft: NDArray[np.float64], colours: Colours) -> dict[str, float]:
    """Mark quantiles on the curve, with words where the curve is not."""
    found = {}
    for share in supported_quantiles(len(ttft)):
        at = float(np.quantile(ttft, share))
        found[quantile_name(share)] = at
        left = axes.get_xlim()[0]
        axes.hlines(share * 100, left, at, color=colours.quiet, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.plot([at], [share * 100], marker="o", markersize=4.5, color=colours.ink)
        # The curve rises, so no curve is above a mark on its left. At the edge the words stand on the right.
        right = axes.transLimits.transform(axes.transScale.transform((at, 0)))[0] < ROOM
        axes.annotate(
            f"{quantile_name(share)} {duration(at)}",
            (at, share * 100),
            xytext=(6, -3) if right else (-6, 3),
            textcoords="offset points",
            ha="left" if right else "right",
            va="top" if right else "bottom",
            fontsize=9,
        )
    return found
