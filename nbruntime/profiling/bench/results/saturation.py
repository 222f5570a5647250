"""Whether requests came faster than the server answered them, so that its queue grew."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nbruntime.profiling.bench.results.run_figures import RunFigures

FEWEST = 20
"""Fewer requests show no trend."""

LEAST_SLOPE = 0.02
"""Seconds of TTFT per second: the part by which requests come faster than they are answered."""

LEAST_RISE = 0.1
"""Seconds; less is no queue that a user would notice."""

_PARTS = 10  # requests that wait for one another are alike: each part counts once
_CERTAIN = 3.0  # standard errors of the slope

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Growth:
    """How the time to the first token grew in a run.

    Parameters
    ----------
    slope : float
        Seconds of TTFT per second of the test.
    rise : float
        Seconds that TTFT grew by over the counted requests.
    """

    slope: float
    rise: float


def queue_growth(figures: RunFigures) -> Growth | None:
    """Find out whether the queue of an open loop grew; None if it did not, or too little shows it.

    The requests are divided into ten parts by their time of sending, and a straight line is laid through the
    median TTFT of each. The queue grew if the line rises by 0.02 s per second or more, by three of its
    standard errors or more, altogether by at least the median TTFT and 100 ms, and if the number of requests
    under way rises, too. A closed loop has at most as many requests as users, so that its queue cannot grow.

    Examples
    --------
    >>> from nbruntime.profiling.bench_run import BenchRun
    >>> from nbruntime.profiling.records import RequestRecord
    >>> late = [RequestRecord("", n, n + 0.5 * n + 0.2, ((0.5 * n + 0.1, 1),)) for n in range(20)]
    >>> growth = queue_growth(RunFigures(BenchRun("", "", "", "open", 1.0, None, 0, 30, (0, 20), late)))
    >>> round(growth.slope, 3)
    0.5
    """
    run = figures.run
    if run.loop != "open" or run.rate is None or math.isinf(run.rate):
        return None
    streamed = sorted((each.sent, each.ttft) for each in figures.measured if each.ttft is not None)
    if len(streamed) < FEWEST or streamed[0][0] == streamed[-1][0]:
        return None
    sent, ttft = np.array(streamed).T
    parts = np.array_split(np.arange(len(sent)), _PARTS)
    slope, error = _line(
        np.array([np.mean(sent[part]) for part in parts]), np.array([np.median(ttft[part]) for part in parts])
    )
    rise = slope * float(np.ptp(sent))
    if slope < max(LEAST_SLOPE, _CERTAIN * error) or rise < max(float(np.median(ttft)), LEAST_RISE):
        return None
    return Growth(slope, rise) if _line(sent, _under_way(figures, sent))[0] > 0 else None


def wait_for_places(figures: RunFigures) -> float | None:
    """Return how long half of the requests waited because as many ran as may at once; None if not for long.

    So many are not sent at the rate of the run, whatever those that are sent take.
    """
    run, wait = figures.run, figures.lateness.median
    capped = run.loop == "open" and run.concurrency is not None and run.rate not in (None, math.inf)
    return wait if capped and wait is not None and wait >= LEAST_RISE else None


def _line(x: Values, y: Values) -> tuple[float, float]:
    """Return the slope of the least squares line, and its standard error."""
    from_mean = x - x.mean()
    squares = float(from_mean @ from_mean)
    slope = float(from_mean @ y) / squares
    rest = y - y.mean() - slope * from_mean
    return slope, math.sqrt(float(rest @ rest) / (len(x) - 2) / squares)


def _under_way(figures: RunFigures, times: Values) -> Values:
    """Return the number of requests under way at each of several times."""
    starts = np.sort([each.sent for each in figures.run.requests])
    ends = np.sort([each.ended for each in figures.run.requests])
    return (np.searchsorted(starts, times, "right") - np.searchsorted(ends, times, "right")).astype(float)
