"""The answer of a load test in words: which load a server holds, and what happens beyond it."""

from __future__ import annotations

from collections.abc import Sequence

from nbruntime.display.numbers import duration, percent, rate
from nbruntime.profiling.bench.results.goodput import in_words
from nbruntime.profiling.bench.results.verdicts import (
    Capacity,
    Verdict,
    fewest_requests,
    load_in_words,
    load_of,
)
from nbruntime.profiling.sweep_point import SweepPoint, knee


def answer(capacity: Capacity, share: float) -> list[str]:
    """Write which load a server holds, why not more, and how sure that is, in two to four sentences."""
    target = f"at {in_words(capacity.verdicts[0].figures.thresholds)} ({percent(share)})"
    single = len(capacity.verdicts) == 1
    best, beyond = capacity.best, capacity.beyond
    shown = best or beyond
    assert shown is not None  # a capacity has a verdict
    load = f"{load_in_words(shown.run)}{_at_once(shown)}"
    if best is None:
        lowest = capacity.verdicts[0] is shown
        first = _not_held(shown, target, load, share, even=lowest and not single)
    elif beyond is None:
        most = "" if single else "at least "
        tried = "" if single else ", the most tried,"
        first = f"Holds {most}{load}{tried} {target}."
    else:
        first = f"Holds {load} {target}; {_beyond(best, beyond, share)}."
    sentences = [first, *_measured(shown), *_certainty(shown, share)]
    if capacity.again is not None:
        sentences.append(f"{_capital(load_in_words(capacity.again.run))} held again: the figures are noisy.")
    return sentences


def knee_in_words(points: Sequence[SweepPoint]) -> str:
    """Write where the knee of a curve is; empty for fewer than three points."""
    known = [point for point in points if point.e2e]
    if len(known) < 3:
        return ""
    bend = knee(known)
    if bend is None:
        return f"No knee up to {_load(known[-1])}: more load may still give more tokens/s."
    if bend is known[0]:
        return f"The knee is at {_load(bend)} or below: more load only makes requests wait longer."
    return f"The knee is at {_load(bend)}: beyond it requests wait longer for few more tokens/s."


def _at_once(verdict: Verdict) -> str:
    run = verdict.run
    return " at once" if run.loop == "closed" or run.rate == float("inf") else ""


def _not_held(verdict: Verdict, target: str, load: str, share: float, *, even: bool) -> str:
    if verdict.held is None:
        return f"Cannot tell whether it holds {load} {target}: {_too_few(verdict, share)}."
    cause = "" if verdict.cause is None else f": {verdict.cause.words}"
    if even:
        return f"Does not hold even {load}, the least tried, {target}{cause}."
    return f"Does not hold {load} {target}{cause}."


def _beyond(best: Verdict, beyond: Verdict, share: float) -> str:
    next_one = best.run.loop == "closed" and load_of(beyond.run) == load_of(best.run) + 1
    where = "beyond that" if next_one else f"at {load_in_words(beyond.run)}"
    if beyond.held is None:
        return f"{where} it cannot be told: {_too_few(beyond, share)}"
    if beyond.cause is not None:
        return f"{where} {beyond.cause.words}"
    return f"{where} too few requests meet them"


def _too_few(verdict: Verdict, share: float) -> str:
    figures = verdict.figures
    judged = figures.met + figures.missed
    only = f"only {judged} request{'' if judged == 1 else 's'}" if judged else "no request"
    left = f" ({figures.stopped} were stopped)" if figures.stopped else ""
    return f"{only} of its steady state can be judged{left}, {fewest_requests(share)} are needed"


def _measured(verdict: Verdict) -> list[str]:
    """Write the figures of the run that the answer is about."""
    figures = verdict.figures
    parts = []
    if (ttft := figures.ttft.median) is not None:
        parts.append(f"TTFT {duration(ttft)}")
    if (each := figures.tokens_per_second_each) is not None:
        parts.append(f"{rate(each)} tokens/s each")
    medians = f"medians: {', '.join(parts)}" if parts else ""
    together = f"together {rate(figures.token_rate)} tokens/s" if figures.token_rate else ""
    attained = figures.attainment
    met = ""
    if attained is not None and verdict.held is not None:
        met = f"{percent(attained)} of {figures.met + figures.missed:,} requests met them"
    written = "; ".join(part for part in (met, medians, together) if part)
    return [f"{_capital(written)}."] if written else []


def _certainty(verdict: Verdict, share: float) -> list[str]:
    """Say so if the interval of the share holds the required one: more requests could turn the answer."""
    bounds = verdict.figures.interval("attainment")
    if verdict.held is None or bounds is None or not bounds[0] < share < bounds[1]:
        return []
    low, high = bounds
    return [f"Not certain: with more requests it may be {percent(low)} to {percent(high)}."]


def _load(point: SweepPoint) -> str:
    if point.loop == "open":
        return f"{rate(point.load)} requests/s"
    return f"{point.load:g} user{'' if point.load == 1 else 's'}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
