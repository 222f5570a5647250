"""Measures how late an event loop is: a client that is busy measures itself."""

from __future__ import annotations

import asyncio
import time
from statistics import quantiles

CHECK_SECONDS = 0.02

FEWEST_CHECKS = 20
"""Checks that a percentile needs."""


class LagMeter:
    """Samples the delay of an event loop, and the processor time of its process, from start to end."""

    def __init__(self) -> None:
        self._delays: list[float] = []
        self._began = (time.perf_counter(), time.process_time())

    async def watch(self) -> None:
        """Sample until cancelled."""
        while True:
            before = time.perf_counter()
            await asyncio.sleep(CHECK_SECONDS)
            self._delays.append(time.perf_counter() - before - CHECK_SECONDS)

    @property
    def lag(self) -> float:
        """90th percentile of the delays, in seconds; 0 after too short a time."""
        if len(self._delays) < FEWEST_CHECKS:
            return 0.0
        return max(0.0, quantiles(self._delays, n=10)[-1])

    @property
    def processor_share(self) -> float:
        """Part of one processor that the process has used."""
        wall, processor = self._began
        return (time.process_time() - processor) / max(time.perf_counter() - wall, 1e-9)
