"""How far a server's clock is ahead of the client's."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

ROUND_TRIPS = 5
"""Most requests for one estimate."""

ESTIMATE_SECONDS = 0.5
"""Seconds after which no further request is sent."""


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """Seconds that the server's clock is ahead of the client's, and the most that this may be wrong."""

    seconds: float = 0.0
    error: float = math.inf


def estimate_offset(
    ask: Callable[[], float], *, local: bool = False, clock: Callable[[], float] = time.time
) -> ClockOffset:
    """Estimate the offset of a server's clock from the quickest of a few round trips.

    Parameters
    ----------
    ask : callable
        Asks the server for its time.
    local : bool
        Whether the server is on this machine, so that an offset within the error is none.
    clock : callable
        The client's clock.

    Examples
    --------
    >>> readings = iter([10.0, 11.0])  # before and after the only round trip, as it is slow
    >>> estimate_offset(lambda: 15.5, clock=lambda: next(readings))
    ClockOffset(seconds=5.0, error=0.5)
    """
    best, begun = ClockOffset(), clock()
    before = begun
    for _ in range(ROUND_TRIPS):
        server = ask()
        after = clock()
        error = max((after - before) / 2, 0.0)
        if error < best.error:
            best = ClockOffset(server - (before + after) / 2, error)
        if after - begun > ESTIMATE_SECONDS:
            break
        before = clock()
    return ClockOffset(0.0, best.error) if local and abs(best.seconds) <= best.error else best
