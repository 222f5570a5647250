"""The card, charts and latencies of a monitored server, as HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nbruntime.display.cards import Card, Details, Tone, table
from nbruntime.display.charts import CHART_STYLE, Line, line_chart
from nbruntime.display.html import escape
from nbruntime.display.numbers import duration, elapsed, percent, rate, time_of_day
from nbruntime.endpoint.cards import model_name, server_pairs
from nbruntime.errors import ServerStatusError
from nbruntime.profiling.monitor import LATENCIES, ServerMonitor
from nbruntime.protocol.metrics import Histogram

QUANTILES = (0.5, 0.9, 0.99)

_RATES: dict[str, Any] = {"figure": rate, "at_least": 10}
_SHARES: dict[str, Any] = {"figure": percent, "at_least": 0.01, "at_most": 1.0}


def server_card(
    monitor: ServerMonitor,
    url: str,
    *,
    ended: str = "",
    cause: str = "",
    pid: int | None = None,
    details: Sequence[Details] = (),
) -> Card:
    """Return the card of a monitored server, without charts.

    Parameters
    ----------
    monitor : ServerMonitor
        Monitor of the server.
    url : str
        Address of the server.
    ended, cause : str
        State and cause of an ended server; empty if unknown.
    pid : int, optional
        Process id of an owned server.
    details : sequence of Details
        Folded parts.
    """
    state, tone = server_state(monitor, ended)
    pairs: list[tuple[str, object]] = [
        ("ended", cause),
        ("url", url),
        ("pid", pid),
        *server_pairs(monitor.server_info),
    ]
    if monitor.error is not None and not ended:
        pairs.append(("error", monitor.error.message))
    return Card("Server", model_name(monitor.model_info), state, tone, pairs=pairs, details=details)


def server_state(monitor: ServerMonitor, ended: str = "") -> tuple[str, Tone]:
    """Return the state of a server in words, and its tone."""
    if ended:
        return ended, "bad" if ended.startswith("died") else "idle"
    if monitor.gone_since is not None:
        since = time_of_day(monitor.gone_since)
        if isinstance(monitor.error, ServerStatusError):
            return f"refuses status requests since {since}", "bad"
        return f"no answer since {since}", "bad"
    return ("answers", "good") if monitor.asked else ("not asked yet", "idle")


def charts(monitor: ServerMonitor) -> list[str]:
    """Draw the quantities that the server reports over time."""
    drawn = []
    if _known(monitor, "num_running_reqs") or not monitor.asked:
        lines = [Line("running", monitor.points("num_running_reqs"))]
        if _known(monitor, "num_waiting_reqs"):
            lines.append(Line("queued", monitor.points("num_waiting_reqs")))
        drawn.append(line_chart("requests", lines, steps=monitor.steps))
    for name, label, unit in (
        ("gen_throughput", "generation", "tokens/s"),
        ("token_usage", "KV cache in use", ""),
        ("cache_hit_rate", "cache hit rate", ""),
    ):
        if not _known(monitor, name) and monitor.asked:
            continue
        scale = _RATES if unit else _SHARES
        drawn.append(line_chart(label, [Line(unit, monitor.points(name))], steps=monitor.steps, **scale))
    return drawn


def chart_note(monitor: ServerMonitor) -> str:
    """Return the caption of the charts: the time that their width covers."""
    said = f"the last {elapsed(monitor.steps * monitor.interval)}; gaps where there was no answer"
    return f'<div class="nbr-quiet">{escape(said)}</div>'


def latencies(monitor: ServerMonitor) -> str:
    """Return a table of latency quantiles, or a hint how to enable them."""
    when, found = monitor.latencies()
    if monitor.metrics is False:
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


def static_body(monitor: ServerMonitor) -> str:
    """Return charts and latencies as self-contained HTML."""
    if not monitor.asked:
        return ""
    drawn = "".join(charts(monitor))
    figures = f'<div class="nbr-charts">{drawn}</div>{chart_note(monitor)}{latencies(monitor)}'
    return f"<style>{CHART_STYLE}</style>{figures}"


def figures_line(monitor: ServerMonitor) -> str:
    """Return the last load as a line of text."""
    load = monitor.load()
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
    """Format a quantile with the digits that the histogram supports.

    Examples
    --------
    >>> quantile(Histogram({0.1: 5.0, 0.2: 5.0, math.inf: 5.0}), 0.5)
    '< 100 ms'
    """
    bucket = histogram.quantile(share)
    if bucket is None:
        return "–"
    lower, upper = bucket
    if math.isinf(upper):
        return f"> {duration(lower, digits=2)}"
    estimate = histogram.estimate(share)
    if lower == 0 or estimate is None:
        return f"< {duration(upper, digits=2)}"
    return duration(estimate, digits=2)


def _known(monitor: ServerMonitor, name: str) -> bool:
    return any(value is not None for _, value in monitor.points(name))
