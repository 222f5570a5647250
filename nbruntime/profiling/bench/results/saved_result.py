"""Results of load tests as dicts that JSON takes, and as rows of tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from nbruntime.errors import ArgumentTypeError
from nbruntime.profiling.bench.results.goodput import met_all
from nbruntime.profiling.bench.results.run_figures import RunFigures
from nbruntime.profiling.bench.results.verdicts import load_of
from nbruntime.profiling.bench_run import BenchRun
from nbruntime.profiling.files import from_plain, plain

VERSION = 1
"""Version of the form; raised when older releases could not read it."""

REQUEST_COLUMNS = (
    "run",
    "label",
    "load",
    "rid",
    "status",
    "finish",
    "scheduled_s",
    "sent_s",
    "lateness_s",
    "ttft_s",
    "tpot_s",
    "e2e_s",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "events",
    "steady",
    "met",
    "error",
)
"""Columns of `BenchResult.to_frame`: times in seconds, ``sent_s`` and ``scheduled_s`` since the run began."""

_ANY_NUMBER = ("rate", "settings")
"""Fields with numbers that may be infinite."""

_LATENCIES = ("ttft", "tpot", "itl", "e2e", "lateness")
_QUANTILES = {"median": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}

RUN_COLUMNS = (
    *("label", "loop", "load", "seconds", "requests", "finished", "failed", "stopped"),
    *("request_rate", "prompt_token_rate", "token_rate", "total_token_rate", "peak_token_rate"),
    *("concurrency", "peak_concurrency", "goodput", "attainment"),
    *(f"{figure}_{kind}_s" for figure in _LATENCIES for kind in ("mean", *_QUANTILES)),
    "interrupted",
)
"""Columns of `BenchResult.runs_frame`; times in seconds."""


def to_record(runs: Iterable[BenchRun], goodput: Mapping[str, float], share: float) -> dict[str, Any]:
    """Return a result as a dict that JSON takes."""
    return {"runs": [_run_record(run) for run in runs], "goodput": dict(goodput), "share": share}


def from_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a result; unknown ones are left out.

    Raises
    ------
    ArgumentTypeError
        If it is not the record of a load test.
    """
    if not isinstance(record, Mapping) or not isinstance(record.get("runs"), list):
        raise ArgumentTypeError("Not the record of a load test", hint="Pass the result of to_dict().")
    known = {item.name for item in fields(BenchRun)}
    runs = []
    for given in record["runs"]:
        if not isinstance(given, Mapping):
            raise ArgumentTypeError("Not the record of a load test: a run is no mapping")
        values = {
            name: _numbers(value) if name in _ANY_NUMBER else value
            for name, value in given.items()
            if name in known
        }
        runs.append(from_plain(values, BenchRun, what="load test"))
    return {
        "runs": runs,
        "goodput": from_plain(record.get("goodput", {}), dict[str, float], what="load test"),
        "share": from_plain(record.get("share", 0.9), float, what="load test"),
    }


def request_rows(figures: Iterable[RunFigures]) -> list[tuple[object, ...]]:
    """Return a row for each request of each run, by `REQUEST_COLUMNS`."""
    rows: list[tuple[object, ...]] = []
    for number, each in enumerate(figures):
        run, (start, end) = each.run, each.run.steady
        for request in run.requests:
            scheduled = request.scheduled
            rows.append(
                (
                    number,
                    run.label,
                    load_of(run),
                    request.rid,
                    request.status,
                    request.finish,
                    None if scheduled is None else scheduled - run.started,
                    request.sent - run.started,
                    request.lateness,
                    request.ttft,
                    request.tpot,
                    request.e2e,
                    request.prompt_tokens,
                    request.cached_tokens,
                    request.completion_tokens,
                    len(request.arrivals),
                    start <= request.sent <= end,
                    met_all(request, each.thresholds),
                    request.error,
                )
            )
    return rows


def run_rows(figures: Iterable[RunFigures]) -> list[tuple[object, ...]]:
    """Return a row for each run, by `RUN_COLUMNS`."""
    return [
        (
            *(each.run.label, each.run.loop, load_of(each.run), each.seconds, len(each.requests)),
            *(each.finished, each.failed, each.stopped),
            *(each.request_rate, each.prompt_token_rate, each.token_rate, each.total_token_rate),
            *(each.peak_token_rate, each.concurrency, each.peak_concurrency, each.goodput, each.attainment),
            *(value for name in _LATENCIES for value in _spread(each, name)),
            each.run.interrupted,
        )
        for each in figures
    ]


def _spread(figures: RunFigures, name: str) -> list[float | None]:
    times = getattr(figures, name)
    return [times.mean, *(times.quantile(share) for share in _QUANTILES.values())]


def _run_record(run: BenchRun) -> dict[str, Any]:
    # The servers' own JSON in a load may hold anything, and is not needed.
    samples = [replace(sample, load=replace(sample.load, raw={})) for sample in run.samples]
    record: dict[str, Any] = plain(replace(run, samples=samples))
    return {**record, **{name: _words(record[name]) for name in _ANY_NUMBER}}


def _words(value: Any) -> Any:
    """Write infinite numbers as text, since JSON has none."""
    match value:
        case float() if math.isinf(value):
            return str(value)
        case dict():
            return {name: _words(each) for name, each in value.items()}
        case list() | tuple():
            return [_words(each) for each in value]
    return value


def _numbers(value: Any) -> Any:
    """Undo `_words`."""
    match value:
        case "inf" | "-inf":
            return float(value)
        case dict():
            return {name: _numbers(each) for name, each in value.items()}
        case list():
            return [_numbers(each) for each in value]
    return value
