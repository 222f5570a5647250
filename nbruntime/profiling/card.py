"""The card of a profile."""

from __future__ import annotations

from nbruntime.display.cards import Card, Details, Tone
from nbruntime.display.html import shortened
from nbruntime.display.numbers import duration, percent, rate, time_of_day
from nbruntime.display.span_chart import SPAN_STYLE, Span, SpanKind, span_chart
from nbruntime.profiling.figures import DEFINITIONS, Distribution, Figures
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.records import RequestRecord
from nbruntime.profiling.request_bars import Part, request_bars
from nbruntime.profiling.summary.summary import summary

MOST_ROWS = 200
"""Requests in the folded table."""

_LOOKS = {
    Part.WAY: SpanKind("way to the server", 0.12, 0.3, "text"),
    Part.QUEUE: SpanKind("queue", 0.2, 0.6, "text"),
    Part.PREFILL: SpanKind("prefill", 1.0, tone="warm"),
    Part.DECODE: SpanKind("decode", 0.55, 0.8),
    Part.FIRST_TOKEN: SpanKind("until the first token", 0.2, 0.6, "text"),
    Part.REST: SpanKind("after it", 0.55, 0.8),
    Part.WHOLE: SpanKind("no token times", 0.55, 0.8),
}
_FAILED = SpanKind("failed", 1.0, 0.8, "bad")


def profile_card(data: ProfileData) -> Card:
    """Make the card of a profile: its summary and a timeline, its figures, and its requests folded."""
    figures = data.figures
    word, tone = state(data)
    said = summary(data)
    chart = span_chart("requests", request_spans(data), order=list(_LOOKS.values()))
    style = f"<style>{SPAN_STYLE}</style>" if chart else ""
    return Card(
        "Profile",
        data.model,
        word,
        tone,
        body=f"{style}{said.html()}{chart}",
        plain="\n".join(f"  {sentence}" for sentence in said.sentences),
        pairs=figure_pairs(data, figures),
        details=[
            Details(f"requests ({len(figures.requests):,})", rows=request_rows(data), heads=True),
            Details("definitions", rows=DEFINITIONS),
            Details(f"notes ({len(data.notes)})", text="\n".join(data.notes)),
        ],
    )


def figure_pairs(data: ProfileData, figures: Figures) -> list[tuple[str, object]]:
    """Return the figures of a profile as (label, value); unknown ones are empty."""
    several = figures.finished > 1
    return [
        ("requests", _counts(figures)),
        ("tokens", _tokens(figures)),
        ("TTFT", _of_streams(spread(figures.ttft), figures)),
        ("ITL", spread(figures.itl)),
        ("E2E", spread(figures.e2e)),
        ("throughput", f"{rate(figures.token_rate)} tokens/s" if figures.token_rate else None),
        (
            "concurrency",
            f"{figures.concurrency:.1f}" if figures.concurrency and several else None,
        ),
        ("server", data.server),
        ("error", data.error),
    ]


def spread(times: Distribution) -> str | None:
    """Write the median and, of several times, the 90 % quantile and the largest; None without any.

    Examples
    --------
    >>> spread(Distribution([0.1, 0.2, 0.4])), spread(Distribution([0.1]))
    ('median 200 ms, p90 360 ms, max 400 ms', '100 ms')
    """
    median, high, largest = times.median, times.quantile(0.9), times.maximum
    if median is None or high is None or largest is None:
        return None
    if len(times) == 1:
        return duration(median)
    return f"median {duration(median)}, p90 {duration(high)}, max {duration(largest)}"


def _of_streams(words: str | None, figures: Figures) -> str | None:
    """Say of how many requests a TTFT is known, unless it is known of all."""
    known = len(figures.ttft)
    if words is None or known == figures.finished:
        return words
    return f"{words}; of {known:,} streamed request{'' if known == 1 else 's'}"


def request_spans(data: ProfileData) -> list[list[Span]]:
    """Return the parts of each request's time, a row for each; a failed one has only one."""
    data = data.snapshot()
    failed = [each.status == "failed" for each in data.requests]
    rows = [
        [Span(each.sent, each.ended, _FAILED)] if alone else []
        for each, alone in zip(data.requests, failed, strict=True)
    ]
    bars = request_bars(data)
    for row, start, end, part in zip(bars.row, bars.start, bars.end, bars.part, strict=True):
        if not failed[row]:
            rows[row].append(Span(float(start), float(end), _LOOKS[part]))
    return rows


def request_rows(data: ProfileData) -> list[list[object]]:
    """Return a table of the requests, with a row of heads; empty without requests."""
    requests = data.snapshot().requests
    if not requests:
        return []
    begin = data.started or requests[0].sent
    rows: list[list[object]] = [
        ["sent", "rid", "prompt", "cached", "new", "queue", "prefill", "TTFT", "TPOT", "E2E", "ended"]
    ]
    for each in requests[:MOST_ROWS]:
        queue, prefill, _ = phase_times(data, each)
        rows.append(
            [
                _time(max(each.sent - begin, 0.0)),
                shortened(each.rid, 14),
                f"{each.prompt_tokens:,}",
                f"{each.cached_tokens:,}",
                f"{each.completion_tokens:,}",
                *(_time(value) for value in (queue, prefill, each.ttft, each.tpot, each.e2e)),
                shortened(each.error, 80) or each.finish or each.status,
            ]
        )
    if len(requests) > MOST_ROWS:
        rows.append([f"… {len(requests) - MOST_ROWS:,} more", *[""] * (len(rows[0]) - 1)])
    return rows


def phase_times(data: ProfileData, request: RequestRecord) -> tuple[float | None, float | None, float | None]:
    """Return the seconds of a request in queue, prefill and decode by the server's times, where known."""
    phases = data.phases(request)
    if phases.prefill is None:
        return None, None, None
    queue = max(phases.prefill - (phases.received or phases.sent), 0.0)
    if phases.decode is None:
        return queue, None, None
    return queue, max(phases.decode - phases.prefill, 0.0), max(phases.ended - phases.decode, 0.0)


def state(data: ProfileData, *, day: bool = False) -> tuple[str, Tone]:
    """Return whether a profile runs or how it ended, and its tone; with its date if `day`."""
    begin = time_of_day(data.started, day=day)
    if data.ended is None and not data.started:
        return "empty", "idle"
    if data.ended is None:
        return f"running since {begin}", "busy"
    took = f"{duration(data.duration)} from {begin}"
    if data.error:
        return f"{took}, ended by {shortened(data.error.partition(':')[0], 60)}", "bad"
    return took, "good"


def _counts(figures: Figures) -> str:
    counts = [
        (figures.finished, "finished"),
        (figures.running, "running"),
        (figures.stopped, "stopped"),
        (figures.failed, "failed"),
    ]
    return ", ".join(f"{count:,} {word}" for count, word in counts if count) or "none"


def _tokens(figures: Figures) -> str | None:
    if not figures.requests:
        return None
    hits = figures.cache_hit_share
    cached = f" ({percent(hits)} cached)" if hits is not None else ""
    return f"{figures.prompt_tokens:,} prompt{cached} + {figures.completion_tokens:,} new"


def _time(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds).replace(" ", "\u00a0")  # on one line
