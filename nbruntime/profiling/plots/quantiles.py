"""Quantiles that a number of values supports, and their words."""

from __future__ import annotations

from collections.abc import Mapping

from nbruntime.display.numbers import duration


def supported_quantiles(count: int) -> list[float]:
    """Return the quantiles beyond which at least one of `count` values lies.

    Examples
    --------
    >>> supported_quantiles(1), supported_quantiles(20), supported_quantiles(500)
    ([0.5], [0.5, 0.9], [0.5, 0.9, 0.99])
    """
    return [share for share, least in ((0.5, 1), (0.9, 10), (0.99, 100)) if count >= least]


def quantiles_in_words(quantiles: Mapping[str, float]) -> str:
    """Return quantiles in seconds as words.

    Examples
    --------
    >>> quantiles_in_words({"median": 0.1, "p90": 0.25})
    'median 100 ms · p90 250 ms'
    """
    return " · ".join(f"{name} {duration(seconds)}" for name, seconds in quantiles.items())
