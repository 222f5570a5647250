"""The waterfall: one bar for each request, and the server's steps under them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from nbruntime.display.html import visible
from nbruntime.errors import ArgumentValueError
from nbruntime.profiling.plots.axes import count_axis, legend_above, time_axis
from nbruntime.profiling.plots.colours import Colours, Theme
from nbruntime.profiling.plots.empty import NO_REQUESTS, empty_figure
from nbruntime.profiling.plots.figure import Figure, new_figure
from nbruntime.profiling.plots.intervals import highest
from nbruntime.profiling.plots.spans import span_of
from nbruntime.profiling.plots.step_table import STAGES, StepTable, by_stage
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.records import RequestRecord, Status
from nbruntime.profiling.request_bars import Part, RequestBars, request_bars

LABELLED = 32
"""Up to so many requests, each has a label."""

MOST = 1000
"""Of more requests, every second, third, ... is drawn: the others would be thinner than a dot."""

ROW = 0.19
"""Inches of a row, at most."""

LOWEST, TALLEST = 1.2, 5.6
"""Inches of the waterfall."""

LANE = 0.75
"""Inches of the steps of one stage."""

QUIET = 0.6
"""How opaque decode is."""

COLUMNS = 1400
"""Columns of the steps' batch sizes."""

SHAPES: dict[Status, str] = {"stopped": "s", "failed": "X", "running": ">"}
"""How the end of a request is marked that did not finish by itself."""


def plot_requests(
    data: ProfileData, *, between: tuple[float, float] | None = None, theme: Theme | None = None
) -> Figure:
    """Draw each request as a bar divided into queue, prefill and decode, and the server's steps below.

    Parameters
    ----------
    data : ProfileData
        A profile.
    between : tuple of (float, float), optional
        Show only this time, in seconds since the start, and its requests.
    theme : str, optional
        ``"light"`` or ``"dark"``; otherwise that of the notebook.

    Examples
    --------
    >>> requests = [RequestRecord("a", 0, 2, ((1.0, 1), (1.5, 1))), RequestRecord("b", 1, 3, status="failed")]
    >>> plot_requests(ProfileData(requests=requests))  # doctest: +ELLIPSIS
    A bar is a request...
      2 requests: 1 finished, 1 failed
    """
    start, end = span_of(data)
    left, right = between or (0.0, end - start)
    if not left < right:
        raise ArgumentValueError(
            f"between={between!r} is no span of time", hint="Give two times in seconds, the earlier first."
        )
    shown = [
        row
        for row, request in enumerate(data.requests)
        if request.sent - start <= right and request.ended - start >= left
    ]
    if not shown:
        words = "No request was under way in this time." if data.requests else NO_REQUESTS
        return empty_figure(theme, title="Requests", words=words, caption="A bar is a request.")
    rows = range(shown[0], shown[-1] + 1)
    stride = -(-len(rows) // MOST)
    bars = request_bars(data)
    tables = by_stage(data.steps)
    stages = [stage for stage in STAGES if len(tables[stage])]
    tall = min(max(ROW * len(rows), LOWEST), TALLEST)
    heights = [tall, *[LANE] * len(stages)]
    with new_figure(
        theme, caption=_caption(data, bars, stride, bool(stages)), height=sum(heights) + 0.95
    ) as figure:
        panels = np.atleast_1d(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
        waterfall, lanes = panels[0], panels[1:]
        time_axis(panels[-1].xaxis, "time since the start", right)
        waterfall.set_xlim(left, right)
        for axes, stage in zip(lanes, stages, strict=True):
            look = _looks(figure.colours)[Part.PREFILL if stage == "prefill" else Part.DECODE]
            _draw_steps(axes, tables[stage], start, look)
            axes.set_ylabel(f"{stage}\nsequences")
        waterfall.set_title(f"{len(shown):,} request{'' if len(shown) == 1 else 's'}")
        _draw_requests(waterfall, data, bars, rows, stride, figure.colours)
        figure.figures.append(_counts_in_words([data.requests[row] for row in shown]))
        figure.align_ylabels(list(panels))
    return figure


def _caption(data: ProfileData, bars: RequestBars, stride: int, steps: bool) -> str:
    words = "A bar is a request, from sending it to its end, at this client"
    if stride > 1:
        words += f"; of {len(data.requests):,}, one in {stride} is drawn, and between=(…, …) shows a part"
    words += ". "
    parts = set(bars.part)
    if Part.PREFILL in parts or Part.QUEUE in parts:
        words += "Queue: until its first forward pass; prefill: until its prompt is computed; then decode. "
    if Part.FIRST_TOKEN in parts:
        words += "Without times of the server, queue and prefill stand together, until the first token. "
    if steps:
        words += "Below: sequences in the batch of each of the server's steps, by stage."
    else:
        words += "The server's steps are not known."
    return words


def _counts_in_words(requests: Sequence[RequestRecord]) -> str:
    counts = Counter(request.status for request in requests)
    order: tuple[Status, ...] = ("finished", "stopped", "failed", "running")
    parts = ", ".join(f"{counts[status]:,} {status}" for status in order if counts[status])
    return f"{len(requests):,} request{'' if len(requests) == 1 else 's'}: {parts}"


def _looks(colours: Colours) -> dict[Part, tuple[str, float]]:
    """Return the colour of each part, and how opaque it is: most of the picture is decode, and quiet."""
    return {
        Part.QUEUE: (colours.waiting, 1),
        Part.PREFILL: (colours.prefill, 1),
        Part.FIRST_TOKEN: (colours.prefill, 1),
        Part.DECODE: (colours.decode, QUIET),
        Part.REST: (colours.decode, QUIET),
        Part.WHOLE: (colours.grey, QUIET),
    }


def _draw_requests(
    axes: Axes, data: ProfileData, bars: RequestBars, rows: range, stride: int, colours: Colours
) -> None:
    """Draw the bars of the requests in `rows`, every `stride`-th of them."""
    start = span_of(data)[0]
    labelled = len(rows) <= LABELLED
    half = min(0.34, 0.34 * ROW * len(rows) / LOWEST) if len(rows) <= 100 else 0.5 * stride
    handles: list[Patch | Line2D] = []
    places, starts, ends = bars.of(Part.WAY)
    axes.hlines(places, starts - start, ends - start, color=colours.quiet, linewidth=0.8)
    left, right = axes.get_xlim()
    if len(places) and (ends - starts).max() > (right - left) / 300:  # long enough to be seen
        handles.append(Line2D([], [], color=colours.quiet, linewidth=0.8, label=Part.WAY.value))
    for part, (colour, alpha) in _looks(colours).items():
        places, starts, ends = bars.of(part)
        drawn = places % stride == 0
        if drawn.any():
            corners = _rectangles(places[drawn], starts[drawn] - start, ends[drawn] - start, half)
            bars_of_part = PolyCollection(list(corners), facecolors=colour, edgecolors=colour, alpha=alpha)
            bars_of_part.set_linewidth(0.6 if len(rows) > 100 else 0)  # short ones stay visible
            axes.add_collection(bars_of_part)
            handles.append(Patch(color=colour, alpha=alpha, label=part.value))
    handles += _mark_ends(axes, data.requests, rows, start, colours)
    axes.set(xlim=(left, right), ylim=(rows[-1] + 0.7, rows[0] - 0.7))
    axes.grid(visible=False, axis="y")
    if labelled:
        axes.set_yticks(rows, [_tokens_in_words(data.requests[row]) for row in rows])
        axes.set_ylabel("prompt + output\ntokens")
    else:
        count_axis(axes.yaxis, "request number, in the order of sending", whole=True)
    legend_above(axes, handles)


def _rectangles(
    rows: NDArray[np.int64], starts: NDArray[np.float64], ends: NDArray[np.float64], half: float
) -> NDArray[np.float64]:
    """Return the corners of bars that reach `half` above and below their rows."""
    across = np.stack([starts, ends, ends, starts], 1)
    up = np.stack([rows - half, rows - half, rows + half, rows + half], 1)
    return np.stack([across, up], 2)


def _tokens_in_words(request: RequestRecord) -> str:
    return f"{request.prompt_tokens:,} + {request.completion_tokens:,}"


def _mark_ends(
    axes: Axes, requests: Sequence[RequestRecord], rows: range, start: float, colours: Colours
) -> list[Line2D]:
    """Mark the requests that did not finish, by shape, and by words beside the bar or in the legend."""
    handles = []
    labelled = len(rows) <= LABELLED
    size = 6.0 if labelled else 4.5 if len(rows) <= 200 else 3.0 if len(rows) <= MOST else 2.0
    for status, shape in SHAPES.items():
        colour = colours.failed if status == "failed" else colours.ink
        places = [row for row in rows if requests[row].status == status]
        if not places:
            continue
        across = [requests[row].ended - start for row in places]
        (marks,) = axes.plot(across, places, shape, color=colour, markersize=size, markeredgewidth=0)
        marks.set_zorder(3)
        words = f"{status} ({len(places):,})"
        handles.append(Line2D([], [], linestyle="", marker=shape, color=colour, markersize=5, label=words))
        for row, x in zip(places, across, strict=True) if labelled else ():
            _write_end(axes, requests[row], row, x, requests[row].sent - start)
    return [] if labelled else handles


def _write_end(axes: Axes, request: RequestRecord, row: int, end: float, sent: float) -> None:
    """Write how a request ended on the side of its bar that has more room."""
    reason = visible(request.error.partition(":")[0])[:40]
    words = f"{request.status}: {reason}" if reason else request.status
    left, right = axes.get_xlim()
    if not left <= end <= right:
        return
    if right - end >= sent - left:
        x, offset, side = end, 7, "left"
    else:
        x, offset, side = sent, -5, "right"
    axes.annotate(
        words, (x, row), xytext=(offset, 0), textcoords="offset points", ha=side, va="center", fontsize=9
    )


def _draw_steps(axes: Axes, table: StepTable, start: float, look: tuple[str, float]) -> None:
    """Draw the largest batch of each column."""
    edges = np.linspace(*axes.get_xlim(), COLUMNS + 1)
    sizes = highest(table.starts - start, table.ends - start, table.batch_sizes, edges)
    colour, alpha = look
    axes.stairs(sizes, edges, fill=True, color=colour, alpha=alpha)
    top = int(table.batch_sizes.max())
    axes.set_ylim(0, max(top, 1) * 1.15)
    axes.set_yticks([0, top])
