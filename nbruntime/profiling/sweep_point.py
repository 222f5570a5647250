"""`SweepPoint`: what one load of a sweep gave, as the pictures of load tests take it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nbruntime.profiling.bench_run import Loop


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """The figures of one run of a sweep, over the requests of its steady state.

    Parameters
    ----------
    label : str
        Name of the server; points with the same label make a curve.
    load : float
        Users of a closed loop, or requests per second of an open one.
    throughput : float
        Output tokens per second.
    ttft, tpot, e2e : float or None
        Seconds of a typical request; None if no request has it.
    goodput : float or None
        Requests per second that met every threshold; None without thresholds.
    loop : str
        ``"open"`` or ``"closed"``.
    quantile : float
        The quantile of `ttft`, `tpot` and `e2e`; 0.5 is the median.
    intervals : mapping of str to (float, float)
        Bootstrap intervals by the names of these fields, low and high.
    doubt : str
        Why the point says less than the others, such as ``"the client was the limit"``; empty if it does not.
    """

    label: str
    load: float
    throughput: float
    ttft: float | None = None
    tpot: float | None = None
    e2e: float | None = None
    goodput: float | None = None
    loop: Loop = "closed"
    quantile: float = 0.5
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    doubt: str = ""


def curves(points: Iterable[SweepPoint]) -> dict[str, list[SweepPoint]]:
    """Return the points by label, in the order of first appearance, each curve by load.

    Examples
    --------
    >>> points = [SweepPoint("a", 2, 30.0), SweepPoint("a", 1, 20.0), SweepPoint("b", 1, 9.0)]
    >>> {label: [point.load for point in curve] for label, curve in curves(points).items()}
    {'a': [1, 2], 'b': [1]}
    """
    found: dict[str, list[SweepPoint]] = {}
    for point in points:
        found.setdefault(point.label, []).append(point)
    return {label: sorted(curve, key=lambda point: point.load) for label, curve in found.items()}


def knee(curve: Iterable[SweepPoint]) -> SweepPoint | None:
    """Return the point with the most throughput for its latency, Kleinrock's power: throughput / E2E.

    Up to it more load gives more throughput at hardly more latency; beyond it requests only wait longer. None
    for fewer than three points, and if the last one is the best: then the sweep ended before the knee.

    Examples
    --------
    >>> curve = [SweepPoint("a", load, load / e2e, e2e=e2e) for load, e2e in [(1, 1.0), (4, 1.1), (16, 4.4)]]
    >>> knee(curve).load
    4
    """
    known = [(point.throughput / point.e2e, point) for point in curve if point.e2e]
    if len(known) < 3:
        return None
    best = max(known, key=lambda pair: pair[0])
    return None if best is known[-1] else best[1]
