"""The picture of tokens per second, and of the requests behind them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from nbruntime.display.numbers import duration, rate
from nbruntime.profiling.plots.axes import count_axis, legend_above, no_data, time_axis
from nbruntime.profiling.plots.colours import Theme
from nbruntime.profiling.plots.curves import draw_level, reduced
from nbruntime.profiling.plots.empty import NO_REQUESTS, empty_figure
from nbruntime.profiling.plots.figure import Figure, new_figure
from nbruntime.profiling.plots.spans import span_of
from nbruntime.profiling.plots.token_rates import bin_edges, in_flight, token_rates
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.records import LoadSample

TITLE = "Output tokens per second"
DEFINITION = "Output tokens per second: tokens that arrived at this client"


def plot_throughput(data: ProfileData, *, theme: Theme | None = None) -> Figure:
    """Draw the output tokens per second over time, with the running and queued requests below.

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
    >>> plot_throughput(data)  # doctest: +ELLIPSIS
    Output tokens per second: tokens that arrived at this client...
      1 tokens/s from the first request to the end of the last
    """
    start, end = span_of(data)
    edges = bin_edges(start, end)
    samples = _known(data.samples)
    whole = sum(not request.arrivals and request.completion_tokens > 0 for request in data.requests)
    caption = f"{DEFINITION} in each {duration(edges[1] - edges[0], digits=2)}, divided by that time"
    if whole:
        caption += f"; tokens of {whole:,} answer{'' if whole == 1 else 's'} without times are spread evenly"
    caption += ". "
    if any(sample.load.gen_throughput is not None for sample in data.samples):
        caption += "The server's own figure counts the tokens of all its clients. "
    caption += (
        "Running requests are in the server's batch, queued ones wait for a place, by its load reports."
        if samples
        else "The server's load is not known: requests of this client, running and queued together."
    )
    if not data.requests and not samples:
        return empty_figure(theme, title=TITLE, words=NO_REQUESTS, caption=DEFINITION + ".")
    with new_figure(theme, caption=caption, height=4.2) as figure:
        above, below = figure.subplots(2, 1, height_ratios=[1.7, 1])
        above.set_title(TITLE)
        if data.requests:
            _draw_rates(above, data, edges, figure)
        else:
            no_data(above, NO_REQUESTS, figure.colours)
        if samples:
            _draw_samples(below, samples, start, figure)
        else:
            times, counts = in_flight(data.requests)
            draw_level(below, times - start, counts.astype(float), figure.colours.blue)
            below.set_title("Unanswered requests")
        count_axis(below.yaxis, "requests", whole=True)
        below.set_ylim(bottom=0)
        for axes in (above, below):
            axes.set_xlim(0, end - start)
        above.tick_params(labelbottom=False)
        time_axis(below.xaxis, "time since the start", end - start)
        figure.align_ylabels()
    return figure


def _draw_rates(axes: Axes, data: ProfileData, edges: np.ndarray, figure: Figure) -> None:
    colours = figure.colours
    rates = token_rates(data.requests, edges)
    axes.stairs(rates, edges - edges[0], fill=True, color=colours.blue, alpha=0.25, linewidth=0)
    axes.stairs(rates, edges - edges[0], color=colours.blue, linewidth=1, label="this client")
    reported = [(sample.at, sample.load.gen_throughput) for sample in data.samples]
    known = [(at - edges[0], value) for at, value in reported if value is not None]
    if known:
        columns = np.array(known, np.float64).T
        times, values = reduced(columns[0], columns[1])
        axes.plot(times, values, color=colours.ink, linewidth=0.9, linestyle=(0, (4, 2)), label="server")
        legend_above(axes)
    count_axis(axes.yaxis, "tokens/s")
    axes.set_ylim(bottom=0)
    sent, ended = min(each.sent for each in data.requests), max(each.ended for each in data.requests)
    tokens = sum(sum(count for _, count in each.arrivals) or each.completion_tokens for each in data.requests)
    mean = rate(tokens / max(ended - sent, 1e-9))
    figure.figures.append(f"{mean} tokens/s from the first request to the end of the last")


def _draw_samples(axes: Axes, samples: Sequence[LoadSample], start: float, figure: Figure) -> None:
    colours = figure.colours
    times = np.array([sample.at for sample in samples]) - start
    running = np.array([sample.load.num_running_reqs or 0 for sample in samples], np.float64)
    waiting = np.array([sample.load.num_waiting_reqs or 0 for sample in samples], np.float64)
    most = f"at most {running.max():,.0f} requests running, {waiting.max():,.0f} queued"
    figure.figures.append(most)
    draw_level(axes, times, running, colours.blue, "running")
    times, running, both = *reduced(times, running), reduced(times, running + waiting)[1]
    axes.fill_between(times, running, both, step="post", color=colours.waiting, linewidth=0, label="queued")
    axes.set_title("Requests at the server")
    legend_above(axes)


def _known(samples: Sequence[LoadSample]) -> list[LoadSample]:
    return [sample for sample in samples if sample.load.num_running_reqs is not None]
