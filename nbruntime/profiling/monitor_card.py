"""A watched server as HTML: what it is, charts of its load, its latencies."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nbruntime.display.cards import Card, Details, Tone, table
from nbruntime.display.charts import CHART_STYLE, Line, line_chart
from nbruntime.display.html import escape
from nbruntime.display.numbers import duration, elapsed, percent, rate, time_of_day
from nbruntime.endpoint.cards import model_name, server_pairs
from nbruntime.errors import ServerStatusError
from nbruntime.profiling.monitor import LATENCIES, ServerMonitor
from nbruntime.protocol.metrics import Histogram

QUANTILES = (0.5, 0.9, 0.99)


def server_card(
    watch: ServerMonitor,
    url: str,
    *,
    ended: str = "",
    cause: str = "",
    pid: int | None = None,
    details: Sequence[Details] = (),
) -> Card:
    """Make the card of a watched server, without charts.

    Parameters
    ----------
    watch : ServerMonitor
        What it has said.
    url : str
        Where it is.
    ended, cause : str
        That it ended, and how, where its owner knows that.
    pid : int, optional
        Of a server that is ours.
    details : sequence of Details
        Folded parts.

    Returns
    -------
    Card
    """
    state, tone = server_state(watch, ended)
    pairs: list[tuple[str, object]] = [
        ("ended", cause),
        ("url", url),
        ("pid", pid),
        *server_pairs(watch.server_info),
    ]
    if watch.error is not None and not ended:
        pairs.append(("error", watch.error.message))
    return Card("Server", model_name(watch.model_info), state, tone, pairs=pairs, details=details)


def server_state(watch: ServerMonitor, ended: str = "") -> tuple[str, Tone]:
    """Say in words how a server is."""
    if ended:
        return ended, "bad" if ended.startswith("died") else "idle"
    if watch.gone_since is not None:
        since = time_of_day(watch.gone_since)
        if isinstance(watch.error, ServerStatusError):
            return f"refuses to say how it is, since {since}", "bad"
        return f"no answer since {since}", "bad"
    return ("answers", "good") if watch.asked else ("not asked yet", "idle")


def charts(watch: ServerMonitor) -> list[str]:
    """Draw the load over time; only quantities that the server tells."""
    drawn = []
    if _known(watch, "num_running_reqs") or not watch.asked:
        lines = [Line("running", watch.points("num_running_reqs"))]
        if _known(watch, "num_waiting_reqs"):
            lines.append(Line("queued", watch.points("num_waiting_reqs")))
        drawn.append(line_chart("requests", lines, steps=watch.steps))
    for name, label, unit in (
        ("gen_throughput", "generation", "tokens/s"),
        ("token_usage", "KV cache in use", ""),
        ("cache_hit_rate", "cache hit rate", ""),
    ):
        if not _known(watch, name) and watch.asked:
            continue
        line = [Line(unit, watch.points(name))]
        if unit:
            drawn.append(line_chart(label, line, steps=watch.steps, figure=rate, at_least=10))
        else:
            drawn.append(
                line_chart(label, line, steps=watch.steps, figure=percent, at_least=0.01, at_most=1.0)
            )
    return drawn


def chart_note(watch: ServerMonitor) -> str:
    """Say what the width of the charts stands for."""
    said = f"the last {elapsed(watch.steps * watch.interval)}; gaps where there was no answer"
    return f'<div class="nbr-quiet">{escape(said)}</div>'


def latencies(watch: ServerMonitor) -> str:
    """Write the quantiles of the latencies, or how to get them."""
    when, found = watch.latencies()
    if watch.metrics is False:
        said = "Latencies need a server that is started with enable_metrics=True."
        return f'<div class="nbr-quiet">{escape(said)}</div>'
    if not found:
        return ""
    if not any(histogram.total for histogram in found.values()):
        return '<div class="nbr-quiet">No request has ended yet, so there are no latencies.</div>'
    rows: list[list[object]] = [["latency", *(f"p{share * 100:g}" for share in QUANTILES), "values"]]
    for name, label in LATENCIES.items():
        if name in found:
            histogram = found[name]
            rows.append(
                [label, *(quantile(histogram, share) for share in QUANTILES), f"{histogram.total:.0f}"]
            )
    note = f"of {when}, as exact as the server's buckets"
    return f'{table(rows, heads=True)}<div class="nbr-quiet">{escape(note)}</div>'


def static_body(watch: ServerMonitor) -> str:
    """Put charts and latencies into HTML that stands by itself."""
    if not watch.asked:
        return ""
    drawn = "".join(charts(watch))
    figures = f'<div class="nbr-charts">{drawn}</div>{chart_note(watch)}{latencies(watch)}'
    return f"<style>{CHART_STYLE}</style>{figures}"


def figures_line(watch: ServerMonitor) -> str:
    """Give the last load in a line of text."""
    load = watch.load()
    if load is None:
        return ""
    parts = [
        f"{load.num_running_reqs:g} running" if load.num_running_reqs is not None else "",
        f"{load.num_waiting_reqs:g} queued" if load.num_waiting_reqs is not None else "",
        f"{rate(load.gen_throughput)} tokens/s" if load.gen_throughput is not None else "",
        f"KV cache {percent(load.token_usage)}" if load.token_usage is not None else "",
        f"hit rate {percent(load.cache_hit_rate)}" if load.cache_hit_rate is not None else "",
    ]
    return "  " + " · ".join(part for part in parts if part) if any(parts) else ""


def quantile(histogram: Histogram, share: float) -> str:
    """Write a quantile with the digits that a histogram supports.

    Examples
    --------
    >>> quantile(Histogram({0.1: 5.0, 0.2: 5.0, math.inf: 5.0}), 0.5)
    '< 100 ms'
    >>> quantile(Histogram({0.1: 0.0, 0.2: 4.0, math.inf: 5.0}), 0.5)
    '160 ms'
    """
    bucket = histogram.quantile(share)
    if bucket is None:
        return "–"
    lower, upper = bucket
    if math.isinf(upper):
        return f"> {duration(lower, digits=2)}"
    estimate = histogram.estimate(share)
    return (
        f"< {duration(upper, digits=2)}" if lower == 0 or estimate is None else duration(estimate, digits=2)
    )


def _known(watch: ServerMonitor, name: str) -> bool:
    return any(value is not None for _, value in watch.points(name))
