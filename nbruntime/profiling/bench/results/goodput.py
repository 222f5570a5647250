"""Thresholds on the latency of a request, and whether a request met them.

The rules are those of guidellm: a failed request is a miss, since it brought no answer in time. A stopped one
counts neither way, since the test ended it. So does one that missed no threshold, but of which one cannot be
told, such as the time per output token of an answer of one token.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from nbruntime.display.numbers import duration, rate
from nbruntime.errors import ArgumentTypeError, ArgumentValueError
from nbruntime.profiling.records import RequestRecord
from nbruntime.protocol.nearest_names import nearest_name

THRESHOLDS = {
    "ttft": "seconds to the first token, at most",
    "tpot": "seconds per output token after the first, at most",
    "itl": "mean seconds between events with tokens, at most",
    "e2e": "seconds to the end of the answer, at most",
    "tokens_per_second": "tokens per second of one request after its first (1 / TPOT), at least",
}
"""The thresholds by name."""

DEFAULT = {"ttft": 0.5, "tokens_per_second": 20.0}
"""What is fast enough to read along: the thresholds where none are given."""

_NAMES_ELSEWHERE = {"e2el": "e2e", "latency": "e2e", "e2e_latency": "e2e", "tps": "tokens_per_second"}


def read_thresholds(thresholds: Mapping[str, Any]) -> dict[str, float]:
    """Check thresholds by the names of `THRESHOLDS`.

    Raises
    ------
    ArgumentTypeError
        If a name is unknown, or a value is not a number.
    ArgumentValueError
        If a value is not positive.

    Examples
    --------
    >>> read_thresholds({"ttft": 1, "tokens_per_second": 20})
    {'ttft': 1.0, 'tokens_per_second': 20.0}
    """
    if not isinstance(thresholds, Mapping):
        raise ArgumentTypeError(
            f"goodput must be a mapping of thresholds, not {type(thresholds).__name__}", hint=_hint()
        )
    for name, value in thresholds.items():
        if name not in THRESHOLDS:
            near = _NAMES_ELSEWHERE.get(name) or nearest_name(str(name), THRESHOLDS)
            hint = f"Did you mean {near!r}? {_hint()}" if near else _hint()
            raise ArgumentTypeError(f"Unknown threshold {name!r}", where="goodput", hint=hint)
        if isinstance(value, bool | str) or not hasattr(value, "__float__"):
            raise ArgumentTypeError(
                f"A threshold is a number, not {type(value).__name__}", where=f"goodput[{name!r}]"
            )
        if not 0 < float(value) < math.inf:
            raise ArgumentValueError(
                f"A threshold is positive and finite, not {value}", where=f"goodput[{name!r}]"
            )
    return {name: float(value) for name, value in thresholds.items()}


def met_each(request: RequestRecord, thresholds: Mapping[str, float]) -> dict[str, bool | None]:
    """Tell for each threshold whether a request met it; None if that cannot be told."""
    if request.status == "failed":
        return dict.fromkeys(thresholds, False)
    if request.status != "finished":
        return dict.fromkeys(thresholds, None)
    return {name: _met(name, _figure(request, name), limit) for name, limit in thresholds.items()}


def met_all(request: RequestRecord, thresholds: Mapping[str, float]) -> bool | None:
    """Tell whether a request met every threshold; None if that cannot be told.

    Examples
    --------
    >>> request = RequestRecord("a", 10.0, 12.0, ((0.5, 1), (2.0, 1)), completion_tokens=2)
    >>> met_all(request, {"ttft": 0.6}), met_all(request, {"ttft": 0.6, "tpot": 1.0})
    (True, False)
    """
    each = met_each(request, thresholds).values()
    if False in each:
        return False
    return None if None in each else True


def in_words(thresholds: Mapping[str, float]) -> str:
    """Write thresholds as a phrase.

    Examples
    --------
    >>> in_words({"ttft": 0.5, "tokens_per_second": 20.0})
    'TTFT < 500 ms and ≥ 20 tokens/s each'
    """
    parts = [_phrase(name, limit) for name, limit in thresholds.items()]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def missed_most(requests: Iterable[RequestRecord], thresholds: Mapping[str, float]) -> str | None:
    """Return the threshold that most of the finished requests missed; None if all met all."""
    misses = dict.fromkeys(thresholds, 0)
    for request in requests:
        if request.status == "finished":
            for name, met in met_each(request, thresholds).items():
                misses[name] += met is False
    worst = max(misses, key=lambda name: misses[name], default=None)
    return worst if worst is not None and misses[worst] else None


def _figure(request: RequestRecord, name: str) -> float | None:
    match name:
        case "ttft":
            return request.ttft
        case "itl":
            return sum(request.itl) / len(request.itl) if request.itl else None
        case "e2e":
            return request.e2e
        case "tokens_per_second":
            tpot = request.tpot
            return None if tpot is None else (1 / tpot if tpot > 0 else math.inf)
        case _:
            return request.tpot


def _met(name: str, figure: float | None, limit: float) -> bool | None:
    if figure is None:
        return None
    return figure >= limit if name == "tokens_per_second" else figure < limit


def _phrase(name: str, limit: float) -> str:
    if name == "tokens_per_second":
        return f"≥ {rate(limit)} tokens/s each"
    label = {"e2e": "E2E"}.get(name, name.upper())
    return f"{label} < {duration(limit)}"


def _hint() -> str:
    return f"Thresholds: {', '.join(THRESHOLDS)}; times in seconds. Example: goodput={{'ttft': 0.5}}."
