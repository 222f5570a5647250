"""The card of a load test: its answer in words, a row for each run, and what the figures mean."""

from __future__ import annotations

from collections.abc import Sequence

from nbruntime.display.cards import Card, Details, Tone, table, text_table
from nbruntime.display.html import escape
from nbruntime.display.numbers import duration, percent, rate
from nbruntime.profiling.bench.results.run_figures import DEFINITIONS, RunFigures
from nbruntime.profiling.bench.results.verdicts import load_of
from nbruntime.profiling.confidence import Interval
from nbruntime.profiling.figures import Distribution

_UNKNOWN = "–"


def result_card(figures: Sequence[RunFigures], sentences: Sequence[str], notes: Sequence[str]) -> Card:
    """Make the card of a load test."""
    rows = run_rows(figures)
    interrupted = any(each.run.interrupted for each in figures)
    state, tone = _state(figures, interrupted)
    lines = "".join(f"<div>{escape(sentence)}</div>" for sentence in sentences)
    plain = [f"  {sentence}" for sentence in sentences]
    if figures:
        plain += [f"  {line}" for line in text_table(rows).splitlines()]
    plain += [f"  {note}" for note in notes]
    return Card(
        "Load test",
        _names(figures),
        state,
        tone,
        body=lines + (table(_unbroken(rows), heads=True) if figures else ""),
        plain="\n".join(plain),
        details=[
            Details(f"notes ({len(notes)})", text="\n".join(notes)),
            Details("all figures", rows=_unbroken(figure_rows(figures)) if figures else (), heads=True),
            Details("definitions", rows=DEFINITIONS),
        ],
    )


def run_rows(figures: Sequence[RunFigures]) -> list[list[str]]:
    """Return a row of main figures for each run, with a row of heads; medians with their 95 % interval."""
    several = len({each.run.label for each in figures}) > 1
    heads = [
        *(["server"] if several else []),
        *("load", "requests", "requests/s", "tokens/s", "TTFT", "TTFT p99", "TPOT", "late", "met"),
    ]
    rows = [heads]
    before = None
    for each in figures:
        label = each.run.label
        # A name is written once, in the first of its rows.
        rows.append([*(["" if label == before else label] if several else []), *_run_row(each)])
        before = label
    return rows


def _run_row(figures: RunFigures) -> list[str]:
    return [
        _load(figures),
        _counts(figures),
        _rate(figures.request_rate),
        _rate(figures.token_rate),
        _time(figures.ttft.median, figures.interval("ttft")),
        _time(figures.ttft.quantile(0.99)),
        _time(figures.tpot.median, figures.interval("tpot")),
        _time(figures.lateness.median),
        _UNKNOWN if figures.attainment is None else percent(figures.attainment),
    ]


def figure_rows(figures: Sequence[RunFigures]) -> list[list[str]]:
    """Return all figures, a column for each run, with a row of heads."""
    several = len({each.run.label for each in figures}) > 1
    labels = [f"{each.run.label}: " if several else "" for each in figures]
    rows = [["", *(label + _load(each) for label, each in zip(labels, figures, strict=True))]]

    def add(label: str, cells: Sequence[str]) -> None:
        if any(cell != _UNKNOWN for cell in cells):
            rows.append([label, *cells])

    add("steady state", [duration(each.seconds) for each in figures])
    for name in ("ttft", "tpot", "itl", "e2e", "lateness"):
        label = name if name == "lateness" else name.upper()
        times: list[Distribution] = [getattr(each, name) for each in figures]
        add(f"{label} mean", [_time(each.mean) for each in times])
        for word, share in (("median", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)):
            add(f"{label} {word}", [_time(each.quantile(share)) for each in times])
    add("tokens per event", [_rate(each.tokens_per_event) for each in figures])
    add("requests/s", [_rate(each.request_rate, each.interval("request_rate")) for each in figures])
    add("prompt tokens/s", [_rate(each.prompt_token_rate) for each in figures])
    add("tokens/s", [_rate(each.token_rate, each.interval("token_rate")) for each in figures])
    add("tokens/s, prompts too", [_rate(each.total_token_rate) for each in figures])
    add("peak tokens/s", [_rate(each.peak_token_rate) for each in figures])
    add("concurrency", [_rate(each.concurrency) for each in figures])
    add("peak concurrency", [str(each.peak_concurrency) for each in figures])
    add("goodput, requests/s", [_rate(each.goodput) for each in figures])
    for name in figures[0].thresholds:
        shares = [each.attainment_of(name) for each in figures]
        add(f"met {name}", [_UNKNOWN if share is None else percent(share) for share in shares])
    return rows


def _unbroken(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Keep figures and their units in one line; heads may break, and a line before an interval."""
    heads, *others = rows
    return [list(heads), *(list(map(_in_one_line, row)) for row in others)]


def _in_one_line(cell: str) -> str:
    no_break_space, word_joiner = "\u00a0", "\u2060"
    joined = cell.replace(" ", no_break_space).replace("–", f"–{word_joiner}")
    return joined.replace(f"{no_break_space}(", " (")


def _state(figures: Sequence[RunFigures], interrupted: bool) -> tuple[str, Tone]:
    if not figures:
        return "no run", "idle"
    runs = f"{len(figures)} run{'' if len(figures) == 1 else 's'}"
    if interrupted:
        return f"stopped after {runs}", "idle"
    took = sum(each.run.ended - each.run.started for each in figures)
    return f"{runs} in {duration(took)}", "good"


def _names(figures: Sequence[RunFigures]) -> str:
    return ", ".join(dict.fromkeys(each.run.label for each in figures if each.run.label))


def _load(figures: RunFigures) -> str:
    load = load_of(figures.run)
    if figures.run.loop == "closed":
        return f"{load:g} user{'' if load == 1 else 's'}"
    if figures.run.rate is None:
        return "replay"
    return "all at once" if load == float("inf") else f"{rate(load)}/s"


def _counts(figures: RunFigures) -> str:
    apart = [(figures.failed, "failed"), (figures.stopped, "stopped")]
    words = ", ".join(f"{count} {word}" for count, word in apart if count)
    return f"{figures.finished}" + (f" + {words}" if words else "")


def _time(seconds: float | None, bounds: Interval | None = None) -> str:
    """Write a time, with its interval in the same unit."""
    if seconds is None:
        return _UNKNOWN
    written = duration(seconds)
    if bounds is None:
        return written
    factor = 1 if written.endswith(" s") else 1000
    low, high = (rate(bound * factor) for bound in bounds)
    return f"{written} ({low}–{high})"


def _rate(value: float | None, bounds: Interval | None = None) -> str:
    if value is None:
        return _UNKNOWN
    written = rate(value)
    return written if bounds is None else f"{written} ({rate(bounds[0])}–{rate(bounds[1])})"
