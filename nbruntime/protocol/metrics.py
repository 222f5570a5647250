"""Reads Prometheus' text format, as in `/metrics`: gauges, and quantiles of histograms."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Histogram", "gauges", "histograms"]

_SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)(?:\s+-?\d+)?$")
_BOUND = re.compile(r'(?:^|,)\s*le="(?P<bound>[^"]*)"')


@dataclass(frozen=True, slots=True)
class Histogram:
    """The number of values up to each upper bound; the last bound is infinite.

    Examples
    --------
    >>> before = Histogram({0.1: 2.0, 0.2: 2.0, float("inf"): 2.0})
    >>> now = Histogram({0.1: 3.0, 0.2: 6.0, float("inf"): 6.0})
    >>> (now - before).quantile(0.5)
    (0.1, 0.2)
    """

    counts: Mapping[float, float]

    @property
    def total(self) -> float:
        """Number of values."""
        return max(self.counts.values(), default=0.0)

    def __sub__(self, earlier: Histogram) -> Histogram:
        """Return the values since an earlier histogram; all values if the server was restarted."""
        if earlier.total > self.total or earlier.counts.keys() != self.counts.keys():
            return self
        return Histogram({bound: count - earlier.counts[bound] for bound, count in self.counts.items()})

    def quantile(self, share: float) -> tuple[float, float] | None:
        """Return the bounds of the bucket with the `share` quantile, such as 0.9; None without values."""
        if self.total <= 0:
            return None
        lower = 0.0
        for bound, count in sorted(self.counts.items()):
            if count >= share * self.total:
                return lower, bound
            lower = bound
        return lower, math.inf

    def estimate(self, share: float) -> float | None:
        """Interpolate the `share` quantile in its bucket, as Prometheus does.

        None without values, or if it lies above the last finite bound.
        """
        bucket = self.quantile(share)
        if bucket is None or math.isinf(bucket[1]):
            return None
        lower, upper = bucket
        below = self.counts.get(lower, 0.0)
        inside = self.counts[upper] - below
        return lower + (upper - lower) * (share * self.total - below) / inside if inside else upper


def gauges(text: str, names: Sequence[str]) -> dict[str, float]:
    """Read gauges and counters, summed over ranks; missing ones are left out.

    Parameters
    ----------
    text : str
        The body of `/metrics`.
    names : sequence of str
        Names without ``sglang:``.

    Examples
    --------
    >>> gauges('sglang:num_running_reqs{tp_rank="0"} 3.0', ["num_running_reqs"])
    {'num_running_reqs': 3.0}
    """
    wanted = {f"sglang:{name}": name for name in names}
    found: dict[str, float] = {}
    for name, _labels, value in _samples(text, tuple(wanted)):
        if name in wanted:
            found[wanted[name]] = found.get(wanted[name], 0.0) + value
    return found


def histograms(text: str, names: Sequence[str]) -> dict[str, Histogram]:
    """Read histograms, summed over ranks and kinds of request; missing ones are left out.

    Parameters
    ----------
    text : str
        The body of `/metrics`.
    names : sequence of str
        Names without ``sglang:`` and ``_bucket``.
    """
    wanted = {f"sglang:{name}_bucket": name for name in names}
    found: dict[str, dict[float, float]] = {}
    for name, labels, value in _samples(text, tuple(wanted)):
        bound = _BOUND.search(labels)
        if name not in wanted or bound is None:
            continue
        try:
            upper = float(bound["bound"])
        except ValueError:
            continue
        counts = found.setdefault(wanted[name], {})
        counts[upper] = counts.get(upper, 0.0) + value
    return {name: Histogram(counts) for name, counts in found.items()}


def _samples(text: str, prefixes: tuple[str, ...]) -> list[tuple[str, str, float]]:
    """Return name, labels and value of the lines with these prefixes; skip invalid lines."""
    found = []
    for line in text.splitlines():
        if not line.startswith(prefixes):
            continue
        match = _SAMPLE.match(line)
        if match is None:
            continue
        try:
            value = float(match["value"])
        except ValueError:
            continue
        if math.isfinite(value):
            found.append((match["name"], match["labels"] or "", value))
    return found
