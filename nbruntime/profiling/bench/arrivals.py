"""Times at which an open loop sends its requests."""

from __future__ import annotations

import numpy as np


def arrival_times(rate: float, count: int, burstiness: float, random: np.random.Generator) -> list[float]:
    """Draw the times of requests, in seconds after the first.

    The gaps have a Gamma distribution with the mean ``1 / rate``. `burstiness` is its shape: 1 is a Poisson
    process, less comes in bursts, more is even; the gaps' standard deviation is ``1 / (rate *
    sqrt(burstiness))``.

    Examples
    --------
    >>> arrival_times(float("inf"), 3, 1.0, np.random.default_rng(0))
    [0.0, 0.0, 0.0]
    """
    if rate == float("inf"):
        return [0.0] * count
    gaps = random.gamma(burstiness, 1 / (rate * burstiness), size=count)
    gaps[:1] = 0.0
    times: list[float] = np.cumsum(gaps).tolist()
    return times
