"""Counters of the engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from nbruntime.embedded.engine.request import Request

_INTERVAL = 1.0
"""Seconds over which the throughput is measured."""


@dataclass(slots=True)
class EngineStats:
    """Counters and gauges of the engine; written in its thread, read from any."""

    # Of all requests that have ended:
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    extended_tokens: int = 0  # computed prompt tokens
    extend_seconds: float = 0.0
    requests: int = 0
    aborted: int = 0
    retracted: int = 0  # times that a request was put back into the queue
    throughput: float = 0.0  # tokens per second in the last second of work, or the last shorter work
    on_finished: list[Callable[[Request], None]] = field(default_factory=list)
    _window_start: float = field(default_factory=time.monotonic)
    _window_tokens: int = 0
    _was_idle: bool = True

    @property
    def cache_hit_rate(self) -> float:
        """Fraction of the prompt tokens that were in the cache."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    def extended(self, tokens: int, seconds: float) -> None:
        """Count an extend step."""
        self.extended_tokens += tokens
        self.extend_seconds += seconds

    def decoded(self, tokens: int) -> None:
        """Count chosen tokens."""
        now = time.monotonic()
        if self._was_idle:
            self._was_idle, self._window_start = False, now  # idle time does not count
        self._window_tokens += tokens
        if now - self._window_start >= _INTERVAL:
            self._close_window(now)

    def idle(self) -> None:
        """Record that nothing runs."""
        now = time.monotonic()
        if self._window_tokens > 1 and now > self._window_start:
            self._close_window(now)
        self._was_idle = True

    def finished(self, request: Request) -> None:
        """Count a request that has ended."""
        self.requests += 1
        self.prompt_tokens += len(request.prompt_ids)
        self.cached_tokens += request.cached_tokens
        self.generated_tokens += len(request.output_ids)
        self.retracted += request.retractions
        self.aborted += (request.finish_reason or {}).get("type") == "abort"
        for observer in self.on_finished:
            observer(request)

    def _close_window(self, now: float) -> None:
        self.throughput = self._window_tokens / (now - self._window_start)
        self._window_start, self._window_tokens = now, 0
