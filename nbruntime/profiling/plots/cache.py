"""The picture of the KV cache, and of what it saves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from nbruntime.display.numbers import percent, rate
from nbruntime.profiling.plots.axes import count_axis, no_data, time_axis
from nbruntime.profiling.plots.colours import Theme
from nbruntime.profiling.plots.curves import draw_level
from nbruntime.profiling.plots.empty import NO_REQUESTS, empty_figure
from nbruntime.profiling.plots.figure import Figure, new_figure
from nbruntime.profiling.plots.fitted_line import FittedLine, fit_line
from nbruntime.profiling.plots.spans import span_of
from nbruntime.profiling.profile_data import ProfileData


def plot_cache(data: ProfileData, *, theme: Theme | None = None) -> Figure:
    """Draw the use of the KV cache and its hits over time, and TTFT against uncached prompt tokens.

    Parameters
    ----------
    data : ProfileData
        A profile.
    theme : str, optional
        ``"light"`` or ``"dark"``; otherwise that of the notebook.

    Examples
    --------
    >>> from nbruntime.profiling.records import RequestRecord
    >>> request = RequestRecord("a", 0, 2, ((1.0, 1),), prompt_tokens=80, cached_tokens=60)
    >>> plot_cache(ProfileData(requests=[request]))  # doctest: +ELLIPSIS
    KV cache in use: ...
      75 % of 80 prompt tokens were in the cache
    """
    caption = (
        "KV cache in use: the tokens of running requests, of its size. Each dot of the hits is a request: "
        "the share of its prompt that was in the cache when it was sent. TTFT: from sending the request to "
        "its first token, at this client"
    )
    measured = _with_ttft(data)
    line = fit_line(measured.tokens, measured.ttft)
    if line is not None:
        caption += (
            "; the line has the median slope of all pairs (Theil and Sen), which long waits in the queue "
            "hardly bend, and its 95 % interval"
        )
    caption += "."
    if not data.requests and not data.samples and not data.steps:
        return empty_figure(theme, title="KV cache", words=NO_REQUESTS, caption=caption)
    start, end = span_of(data)
    with new_figure(theme, caption=caption, height=4.0) as figure:
        panels = figure.subplot_mosaic([["use", "ttft"], ["hits", "ttft"]], width_ratios=[1, 1])
        _draw_use(panels["use"], data, start, figure)
        _draw_hits(panels["hits"], data, start, figure)
        time_axis(panels["hits"].xaxis, "time since the start", end - start)
        for name in ("use", "hits"):
            panels[name].set_xlim(0, end - start)
        panels["use"].tick_params(labelbottom=False)
        _draw_ttft(panels["ttft"], measured, line, figure)
        figure.align_ylabels([panels["use"], panels["hits"]])
    return figure


def _draw_use(axes: Axes, data: ProfileData, start: float, figure: Figure) -> None:
    axes.set_title("KV cache in use")
    shares = [(sample.at, sample.load.token_usage) for sample in data.samples]
    points = [(at, share * 100) for at, share in shares if share is not None]
    label, unit = "of its tokens (%)", "%"
    if not points:
        points = [(step.end, float(step.used_tokens)) for step in data.steps if step.used_tokens is not None]
        label = unit = "tokens"
    if not points:
        no_data(axes, "The server's load was not noted.", figure.colours)
        return
    times = np.array([at for at, _ in points]) - start
    values = np.array([value for _, value in points])
    draw_level(axes, times, values, figure.colours.blue)
    figure.figures.append(f"KV cache: at most {rate(float(values.max()))} {unit} in use")
    count_axis(axes.yaxis, label)
    axes.set_ylim(bottom=0)


def _draw_hits(axes: Axes, data: ProfileData, start: float, figure: Figure) -> None:
    axes.set_title("Prompt tokens found in the cache")
    requests = [request for request in data.requests if request.prompt_tokens]
    if not requests:
        no_data(axes, "No prompt's length is known.", figure.colours)
        return
    times = np.array([request.sent for request in requests]) - start
    shares = np.array([request.cached_tokens / request.prompt_tokens * 100 for request in requests])
    axes.plot(
        times,
        shares,
        linestyle="none",
        marker="o",
        markersize=_size(len(requests)),
        markeredgewidth=0,
        alpha=0.6,
        color=figure.colours.cached,
        clip_on=False,
    )
    cached = sum(request.cached_tokens for request in requests)
    whole = sum(request.prompt_tokens for request in requests)
    axes.axhline(cached / whole * 100, color=figure.colours.quiet, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.annotate(
        f"{percent(cached / whole)} of all",
        (1, cached / whole * 100),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 3),
        textcoords="offset points",
        ha="right",
        fontsize=9,
    )
    count_axis(axes.yaxis, "of the prompt (%)")
    axes.set_ylim(0, 100)
    figure.figures.append(f"{percent(cached / whole)} of {whole:,} prompt tokens were in the cache")


@dataclass(frozen=True)
class _Measured:
    """Uncached prompt tokens, seconds to the first token, and whether a part was cached, of each request."""

    tokens: NDArray[np.float64]
    ttft: NDArray[np.float64]
    hit: NDArray[np.bool_]


def _with_ttft(data: ProfileData) -> _Measured:
    rows = [
        (request.new_prompt_tokens, request.ttft, request.cached_tokens > 0)
        for request in data.requests
        if request.ttft is not None and request.prompt_tokens and request.status != "failed"
    ]
    tokens, ttft, hit = np.array(rows, np.float64).reshape(-1, 3).T
    return _Measured(tokens, ttft, hit > 0)


def _draw_ttft(axes: Axes, measured: _Measured, line: FittedLine | None, figure: Figure) -> None:
    colours = figure.colours
    tokens, ttft, hit = measured.tokens, measured.ttft, measured.hit
    axes.set_title("TTFT against uncached prompt tokens")
    if not len(ttft):
        no_data(axes, "No streamed request has a prompt of known length.", colours)
        return
    for chosen, marker, colour, label in (
        (~hit, "o", colours.orange, "nothing cached"),
        (hit, "s", colours.green, "part cached"),
    ):
        if chosen.any():
            axes.plot(
                tokens[chosen],
                ttft[chosen],
                linestyle="none",
                marker=marker,
                markersize=_size(len(ttft)),
                markeredgewidth=0,
                alpha=0.65,
                color=colour,
                label=label,
            )
    count_axis(axes.xaxis, "uncached prompt tokens")
    time_axis(axes.yaxis, "TTFT", float(ttft.max()))
    axes.set_xlim(0, float(tokens.max()) * 1.03 or 1.0)
    axes.set_ylim(0, float(ttft.max()) * (1.5 if line else 1.3) or 1e-3)  # room for the legend
    if line is not None:
        ends = np.array([0.0, tokens.max()])
        axes.plot(
            ends, line.at_zero + line.slope * ends, color=colours.ink, linewidth=1.2, label=in_words(line)
        )
        figure.figures.append(f"TTFT {in_words(line)}")
    axes.legend(loc="upper left", markerscale=4.5 / _size(len(ttft)))


def in_words(line: FittedLine) -> str:
    """Write the slope of a line in ms per 1,000 tokens, with its interval.

    Examples
    --------
    >>> in_words(FittedLine(slope=0.00021, at_zero=0.0, low=0.0002, high=0.00025))
    '210 ms per 1,000 tokens (200 to 250)'
    """
    slope, low, high = (rate(value * 1e6) for value in (line.slope, line.low, line.high))
    return f"{slope} ms per 1,000 tokens ({low} to {high})"


def _size(count: int) -> float:
    return 4.5 if count < 300 else 3.0 if count < 2000 else 1.6
