"""Turns the options of a run into the plan that its client process follows."""

from __future__ import annotations

import math

import numpy as np

from nbruntime.profiling.bench.arrivals import arrival_times
from nbruntime.profiling.bench.options import BenchOptions
from nbruntime.profiling.bench.plan import OWN_TOKENS, ClientPlan, PlannedRequest
from nbruntime.profiling.bench.target import Target

TABLE = 2048
"""Lengths that are drawn for a closed loop without a number of requests; it begins again after them."""


def make_plan(target: Target, options: BenchOptions, run: int) -> ClientPlan:
    """Plan a run; `run` is its number, so that no run finds another's prompts in the cache."""
    settings = target.settings
    prompts = target.read_prompts(options.prompts)
    requests = plan_replay(options) if options.replay else plan_requests(options, len(prompts))
    count = None if options.loop == "closed" and options.measured_requests is None else len(requests)
    random_tokens = any(planned.blocks for planned in requests)
    return ClientPlan(
        base_url=settings.base_url,
        api_key=settings.secret.reveal(),
        verify=settings.verify,
        connect_timeout=settings.connect_timeout,
        read_timeout=settings.read_timeout,
        loop=options.loop,
        concurrency=options.users if options.loop == "closed" else options.concurrency,
        think_time=options.think_time,
        requests=requests,
        count=count,
        warmup=options.warmup_requests,
        seconds=options.seconds if options.loop == "closed" else None,
        timeout=options.timeout,
        prompts=prompts,
        vocabulary=target.vocabulary if random_tokens else [],
        seed=[options.seed, run],
        body=dict(options.body),
    )


def plan_requests(options: BenchOptions, prompts: int = 0) -> list[PlannedRequest]:
    """Plan random prompts, or a number of the caller's, one after the other."""
    times = _times(options)
    # Times, lengths and groups are drawn independently: all runs of a sweep get the same lengths.
    random = np.random.default_rng([options.seed, 2])
    outputs = options.output_tokens.draw(random, len(times))
    if prompts:
        return [
            PlannedRequest(output, prompt=number % prompts, at=at)
            for number, (at, output) in enumerate(zip(times, outputs, strict=True))
        ]
    lengths = options.prompt_tokens.draw(np.random.default_rng([options.seed, 3]), len(times))
    random = np.random.default_rng([options.seed, 4])
    groups = random.integers(options.prefix_groups, size=len(times)).tolist()
    return [
        PlannedRequest(output, _blocks(length, options.prefix_tokens, group), at=at)
        for at, length, output, group in zip(times, lengths, outputs, groups, strict=True)
    ]


def _blocks(length: int, prefix: int, group: int) -> tuple[tuple[int, int], ...]:
    """Divide a prompt into the beginning that its group shares and its own end of at least a token."""
    shared = min(prefix, length - 1)
    own = (OWN_TOKENS, length - shared)
    return ((group, shared), own) if shared else (own,)


def _times(options: BenchOptions) -> list[float]:
    """Draw the times of all requests, warm-up included; of a closed loop only their number counts."""
    warmup, measured = options.warmup_requests, options.measured_requests
    if options.loop == "closed":
        return [0.0] * (TABLE if measured is None else warmup + measured)
    rate = options.rate or 1.0
    if options.seconds is None:
        return _arrivals(options, warmup + (measured or 0))
    count = warmup + (measured if measured is not None else math.ceil(rate * options.seconds) + 1)
    while True:
        times = _arrivals(options, count)
        until = times[min(warmup, count - 1)] + options.seconds
        if measured is not None or times[-1] > until:
            return [at for at in times if at <= until]
        count *= 2


def _arrivals(options: BenchOptions, count: int) -> list[float]:
    """Draw the times of the first requests; a larger number begins with the same ones."""
    random = np.random.default_rng([options.seed, 1])
    return arrival_times(options.rate or 1.0, count, options.burstiness, random)


def plan_replay(options: BenchOptions) -> list[PlannedRequest]:
    """Plan a recorded workload; at twice its speed, its times are halved."""
    planned = []
    limit = None if options.requests is None else options.requests + options.warmup_requests
    for recorded in options.replay[:limit]:
        at = recorded.at / options.speed
        in_time = options.seconds is None or options.loop == "closed" or at <= options.seconds
        if recorded.after is None and not in_time:
            break
        known = sum(length for _, length in recorded.blocks)
        rest = recorded.prompt_tokens - known
        blocks = (*recorded.blocks, (OWN_TOKENS, rest)) if rest > 0 else recorded.blocks
        planned.append(
            PlannedRequest(
                recorded.output_tokens,
                blocks,
                at=at,
                after=recorded.after,
                wait=recorded.wait / options.speed,
            )
        )
    return planned
