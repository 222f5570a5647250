"""Samples the load of a server while a load test runs."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from types import TracebackType
from typing import Self

from nbruntime.endpoint import server_operations
from nbruntime.endpoint.settings import Settings
from nbruntime.endpoint.transport import Transport
from nbruntime.errors import NbruntimeError
from nbruntime.profiling.monitor import whole_load
from nbruntime.profiling.records import LoadSample

SAMPLE_SECONDS = 0.5

ANSWER_SECONDS = 5.0
"""Seconds that one answer may take: a server that hangs must not delay the end of the test for long."""

MOST_FAILURES = 3
"""Failed samples in a row after which it gives up: the server has no load route, or has gone."""


class LoadSampler:
    """Reads a server's load every half second from `__enter__` to `__exit__`.

    Attributes
    ----------
    samples : list of LoadSample
        What was read.
    problem : str
        Why the server's load is not known any more; empty if it is.
    """

    def __init__(self, settings: Settings) -> None:
        self.samples: list[LoadSample] = []
        self.problem = ""
        longest = min(settings.read_timeout or ANSWER_SECONDS, ANSWER_SECONDS)
        self._transport = Transport(replace(settings, read_timeout=longest))
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="nbruntime-bench-load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._transport.close()

    def _sample(self) -> None:
        failures = 0
        while failures < MOST_FAILURES:
            asked = time.time()
            try:
                load = whole_load(self._transport.run(server_operations.read_load()))
            except NbruntimeError as error:
                failures += 1
                last = error
            else:
                failures = 0
                self.samples.append(LoadSample((asked + time.time()) / 2, load))
            if self._over.wait(SAMPLE_SECONDS):
                return
        self.problem = last.message
