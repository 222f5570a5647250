"""The checked arguments of a load test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nbruntime.profiling.bench.lengths import LengthSampler
from nbruntime.profiling.bench.replay import ReplayedRequest
from nbruntime.profiling.bench_run import Loop

USERS = 8
"""Users of a closed loop that is not described further."""

LEAST_REQUESTS = 32

OPEN_SECONDS = 10.0
"""Seconds of an open loop whose number of requests is not given."""

OPEN_WARMUP = 2
"""Requests before the measured ones in an open loop: the first opens connections and fills caches."""


@dataclass(frozen=True)
class BenchOptions:
    """What one run does; the arguments are those of `nbruntime.bench`, checked."""

    loop: Loop = "closed"
    rate: float | None = None
    concurrency: int | None = None
    burstiness: float = 1.0
    think_time: float = 0.0
    requests: int | None = None
    seconds: float | None = None
    prompt_tokens: LengthSampler = field(default_factory=lambda: LengthSampler("prompt_tokens", 256))
    output_tokens: LengthSampler = field(default_factory=lambda: LengthSampler("output_tokens", 64))
    prefix_tokens: int = 0
    prefix_groups: int = 1
    prompts: Sequence[Any] = ()
    replay: Sequence[ReplayedRequest] = ()
    replay_name: str = ""
    speed: float = 1.0
    seed: int = 0
    warmup: int | None = None
    timeout: float | None = None
    flush_cache: bool = True
    body: Mapping[str, Any] = field(default_factory=dict)

    def at_level(self, kind: str, level: float) -> BenchOptions:
        """Return the options of one run of a sweep over ``"rate"`` or ``"concurrency"``."""
        if kind == "rate":
            return replace(self, loop="open", rate=float(level))
        return replace(self, loop="closed", rate=None, concurrency=int(level))

    @property
    def users(self) -> int:
        """Users of a closed loop."""
        return self.concurrency or USERS

    @property
    def warmup_requests(self) -> int:
        """Requests before the measured ones; a recorded workload has its own only, all at once no first."""
        if self.warmup is not None:
            return self.warmup
        if self.replay or self.rate == math.inf:
            return 0
        return self.users if self.loop == "closed" else OPEN_WARMUP

    @property
    def measured_requests(self) -> int | None:
        """Requests after the warm-up; None if only the time is limited."""
        if self.requests is not None or self.seconds is not None:
            return self.requests
        if self.loop == "closed":
            return max(LEAST_REQUESTS, 4 * self.users)
        rate = self.rate or 0.0
        return LEAST_REQUESTS if math.isinf(rate) else max(LEAST_REQUESTS, round(rate * OPEN_SECONDS))

    def describe(self) -> str:
        """Describe the load in a few words."""
        if self.replay:
            times = "" if self.speed == 1 else f" at {self.speed:g} times its speed"
            return f"replay of {self.replay_name}{times}"
        if self.loop == "closed":
            return f"{self.users} user{'s' if self.users != 1 else ''}"
        if self.rate is not None and math.isinf(self.rate):
            return "all requests at once"
        return f"{self.rate:g} requests/s"

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain values, for `BenchRun.settings`."""
        return {
            "requests": self.requests if self.replay else self.measured_requests,
            "seconds": self.seconds,
            "burstiness": self.burstiness if self.loop == "open" and not self.replay else None,
            "think_time": self.think_time if self.loop == "closed" else None,
            "prompt_tokens": None if self.prompts or self.replay else str(self.prompt_tokens),
            "output_tokens": None if self.replay else str(self.output_tokens),
            "shared_prefix": self.prefix_tokens or None,
            "prefix_groups": self.prefix_groups if self.prefix_tokens else None,
            "prompts": len(self.prompts) or None,
            "replay": self.replay_name or None,
            "speed": self.speed if self.replay else None,
            "seed": self.seed,
            "warmup": self.warmup_requests,
            "timeout": self.timeout,
            "flush_cache": self.flush_cache,
            "sampling_params": dict(self.body.get("sampling_params") or {}),
        }
