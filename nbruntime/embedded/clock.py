"""The time of day, as a clock that never jumps: durations between two readings are true."""

from __future__ import annotations

import time

_EPOCH = time.time() - time.perf_counter()


def now() -> float:
    """Give the seconds since 1970, by the clock of the server's start."""
    return _EPOCH + time.perf_counter()
