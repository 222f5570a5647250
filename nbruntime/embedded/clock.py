"""A clock of wall time that never jumps, so that differences between readings are true durations."""

from __future__ import annotations

import time

_EPOCH = time.time() - time.perf_counter()


def now() -> float:
    """Give the seconds since 1970, by the wall clock at the server's start."""
    return _EPOCH + time.perf_counter()
