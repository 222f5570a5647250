"""Why a run of a load test missed its thresholds: errors, queueing, prefill or decode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nbruntime.display.html import shortened
from nbruntime.display.numbers import duration, percent, rate
from nbruntime.profiling.bench.results.goodput import met_each, missed_most
from nbruntime.profiling.bench.results.run_figures import RunFigures
from nbruntime.profiling.bench.results.saturation import queue_growth, wait_for_places
from nbruntime.profiling.records import RequestRecord

Kind = Literal["errors", "queueing", "prefill", "first token", "decode", "stalls"]

_STALL = 3.0  # a gap of so many medians is no decode step of its own
_STALLED_SHARE = 0.3  # of the decode time in such gaps


@dataclass(frozen=True)
class Cause:
    """Why thresholds were missed.

    Parameters
    ----------
    kind : str
        ``"errors"``, ``"queueing"``, ``"prefill"``, ``"first token"`` (queue or prefill, which is not
        known), ``"decode"``, or ``"stalls"`` of decode.
    words : str
        A clause with its figures.
    """

    kind: Kind
    words: str


def cause_of(figures: RunFigures, share: float) -> Cause | None:
    """Find out why fewer than a share of the requests met the thresholds; None if none was missed."""
    total = figures.finished + figures.failed
    if figures.failed > (1 - share) * total:
        error = next((each.error for each in figures.requests if each.error), "")
        example = f" ({shortened(error, 160)})" if error else ""
        return Cause("errors", f"{figures.failed} of {total} requests failed{example}")
    if wait := wait_for_places(figures):
        places = figures.run.concurrency
        which = f"one of the {places} places" if places != 1 else "the only place"
        half = f"half of the requests waited {duration(wait)} or longer for {which}"
        return Cause("queueing", half)
    if growth := queue_growth(figures):
        return Cause("queueing", f"the queue grows (TTFT by {duration(growth.slope, 2)} in each second)")
    worst = missed_most(figures.requests, figures.thresholds)
    if worst is None:
        return None
    ttft, e2e = figures.ttft.median, figures.e2e.median
    if worst == "ttft" or (worst == "e2e" and ttft is not None and e2e and ttft > e2e / 2):
        return _before_the_first_token(figures, worst)
    return _after_the_first_token(figures)


def _before_the_first_token(figures: RunFigures, threshold: str) -> Cause:
    late = [each for each in figures.measured if met_each(each, figures.thresholds)[threshold] is False]
    ttft = _median([each.ttft for each in late])
    if ttft is None:
        return Cause("first token", "answers come too late")
    measured = f"first token after {duration(ttft)}"
    queued = _median([each.server_times.get("queue_time") for each in late])
    if queued is not None:
        if queued >= ttft / 2:
            return Cause("queueing", f"requests queue ({measured}, {duration(queued)} of it in the queue)")
        return Cause("prefill", f"prefill is too slow ({measured}{_prompts(late)})")
    waiting = _waiting(figures)
    if waiting is None:
        return Cause("first token", f"first tokens come too late ({measured})")
    if waiting >= 0.5:
        return Cause("queueing", f"requests queue ({measured}, {waiting:.2g} waiting on average)")
    return Cause("prefill", f"prefill is too slow ({measured}{_prompts(late)}, and none waited)")


def _after_the_first_token(figures: RunFigures) -> Cause:
    speed = figures.tokens_per_second_each
    measured = f"{rate(speed)} tokens/s each" if speed else "no second token"
    gaps = figures.itl.values
    if len(gaps):
        median = float(np.median(gaps))
        stalled = float((gaps[gaps > _STALL * median] - median).sum() / max(gaps.sum(), 1e-9))
        if stalled >= _STALLED_SHARE:
            return Cause(
                "stalls",
                f"decode stalls, as when other prompts are computed ({measured}, "
                f"{percent(stalled)} of the time in long gaps)",
            )
    return Cause("decode", f"decode is too slow ({measured})")


def _prompts(requests: Sequence[RequestRecord]) -> str:
    tokens = _median([float(each.new_prompt_tokens) for each in requests])
    return f" for {tokens:,.0f} new prompt tokens" if tokens else ""


def _waiting(figures: RunFigures) -> float | None:
    """Return the number of queued requests on average; None if the server did not report it."""
    start, end = figures.run.steady
    known = [each.load.num_waiting_reqs for each in figures.run.samples if start <= each.at <= end]
    counts = [count for count in known if count is not None]
    return float(np.mean(counts)) if counts else None


def _median(values: Sequence[float | None]) -> float | None:
    """Return the median if most values are known."""
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known and len(known) * 2 >= len(values) else None
