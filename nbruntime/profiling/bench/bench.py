"""`nbruntime.bench`: put servers under load and measure them."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

from nbruntime.endpoint.base_client import checked_seconds
from nbruntime.errors import ArgumentTypeError
from nbruntime.profiling.bench.arguments import (
    check_together,
    positive_number,
    read_body,
    read_prefix,
    read_prompts,
    read_sweep,
    whole_number,
)
from nbruntime.profiling.bench.lengths import Lengths, LengthSampler
from nbruntime.profiling.bench.options import BenchOptions
from nbruntime.profiling.bench.progress import Progress
from nbruntime.profiling.bench.replay import read_replay
from nbruntime.profiling.bench.results.goodput import read_thresholds
from nbruntime.profiling.bench.results.result import BenchResult
from nbruntime.profiling.bench.running import RunningBench
from nbruntime.profiling.bench.target import read_targets


@overload
def bench(endpoint: Any, *, block: Literal[True] = True, **options: Any) -> BenchResult: ...
@overload
def bench(endpoint: Any, *, block: bool, **options: Any) -> BenchResult | RunningBench: ...


def bench(
    endpoint: Any,
    *,
    requests: int | None = None,
    seconds: float | None = None,
    concurrency: int | None = None,
    rate: float | None = None,
    burstiness: float = 1.0,
    think_time: float = 0.0,
    sweep: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
    prompt_tokens: Lengths = 256,
    output_tokens: Lengths = 64,
    shared_prefix: int | tuple[int, int] = 0,
    prompts: Any = None,
    replay: str | Path | None = None,
    speed: float = 1.0,
    seed: int = 0,
    warmup: int | None = None,
    goodput: Mapping[str, float] | None = None,
    timeout: float | None = 600.0,
    flush_cache: bool = True,
    ignore_eos: bool = True,
    temperature: float = 0.0,
    progress: Progress = None,
    block: bool = True,
    **parameters: Any,
) -> BenchResult | RunningBench:
    """Put a server under load, and measure how it answers.

    With `concurrency`, each of a number of users sends the next request after an answer (a closed loop).
    With `rate`, requests are sent on schedule, whether or not earlier ones were answered (an open loop).
    Without either there are 8 users. A process of its own sends the requests, so that what else the notebook
    does is not measured.

    Kernel > Interrupt, or the Stop button of ``block=False``, ends the load test early; the result has what
    was measured until then, and says so. A second interrupt gives it up.

    Parameters
    ----------
    endpoint : RuntimeEndpoint, AsyncRuntimeEndpoint, Runtime, str, list or dict
        The server, or its URL; or several, one after the other. The keys of a dict name them.
    requests : int, optional
        Requests to measure, besides the warm-up; by default 4 for each user, or those of 10 s, at least 32.
    seconds : float, optional
        Seconds in which requests are sent, after the warm-up; those under way are still answered.
    concurrency : int, optional
        Users at once; with `rate`, the most requests at once.
    rate : float, optional
        Requests per second; ``float("inf")`` sends all at once.
    burstiness : float
        Shape of the Gamma distribution of the times between requests: 1 for a Poisson process, less for
        bursts, more for even times.
    think_time : float
        Seconds that a user waits before the next request.
    sweep : list of int, or dict, optional
        Runs with several numbers of users: ``[1, 2, 4, 8]``; or of rates: ``{"rate": [1, 2, 4]}``.
    prompt_tokens, output_tokens : int, tuple, list, array, callable or distribution
        Lengths in tokens: a number; ``(least, most)`` with equal chances; a list or array to draw from; a
        function of a ``numpy.random.Generator``; or a distribution with ``rvs``. The prompts are random
        tokens of the model.
    shared_prefix : int or tuple of (int, int)
        The first tokens of the prompt that all requests share; or their number, and the number of groups of
        requests that each share others.
    prompts : str, list of str, list of lists of int, or list of conversations, optional
        Prompts to send instead of random ones, in turn.
    replay : str or Path, optional
        A recorded workload: a file of Mooncake, BurstGPT or TraceLab, which has the times and lengths. With
        `concurrency` or `sweep`, only its lengths count.
    speed : float
        Factor on the times of `replay`: 2 sends twice as many requests per second.
    seed : int
        Seed of times, lengths and tokens; a run with the same arguments sends the same requests.
    warmup : int, optional
        Requests before the measured ones, which go on without a pause; by default one for each user, or 2;
        none for a replay, or for all at once.
    goodput : dict of str to float, optional
        Thresholds that an answer has to meet: ``"ttft"``, ``"tpot"``, ``"itl"`` and ``"e2e"`` in seconds, at
        most; ``"tokens_per_second"``, at least. By default 0.5 s to the first token and 20 tokens/s.
    timeout : float, optional
        Seconds that one request may take; a later one has failed.
    flush_cache : bool
        Whether to empty the server's KV cache before each run.
    ignore_eos : bool
        Whether an answer goes on to its `output_tokens` when the model would end it.
    temperature : float
        As in `RuntimeEndpoint.complete`.
    progress : callable, False or None
        Called with a `BenchProgress`, from another thread; False shows nothing, None a bar in a notebook or
        a line in a terminal.
    block : bool
        Whether to wait for the end. If not, it returns a `RunningBench`, and its view has a Stop button.
    **parameters
        Other sampling parameters and fields of a request, as in `RuntimeEndpoint.complete`.

    Returns
    -------
    BenchResult or RunningBench
        All runs, with what every request took.

    Raises
    ------
    ArgumentError
        For a wrong argument; nothing was sent.
    ServerConnectionError
        If no server answers.

    Examples
    --------
    >>> result = nbruntime.bench(endpoint, sweep=[1, 2, 4, 8], prompt_tokens=(100, 500))  # doctest: +SKIP
    >>> nbruntime.bench(endpoint, rate=2.0, seconds=60, goodput={"ttft": 0.5})  # doctest: +SKIP
    """
    options = BenchOptions(
        loop="open" if rate is not None or (replay is not None and concurrency is None) else "closed",
        rate=None if rate is None else positive_number("rate", rate, finite=False),
        concurrency=None if concurrency is None else whole_number("concurrency", concurrency),
        burstiness=positive_number("burstiness", burstiness),
        think_time=positive_number("think_time", think_time, zero=True),
        requests=None if requests is None else whole_number("requests", requests),
        seconds=checked_seconds("seconds", seconds),
        prompt_tokens=LengthSampler("prompt_tokens", prompt_tokens),
        output_tokens=LengthSampler("output_tokens", output_tokens),
        **read_prefix(shared_prefix),
        prompts=read_prompts(prompts),
        speed=positive_number("speed", speed),
        seed=whole_number("seed", seed, least=0),
        warmup=None if warmup is None else whole_number("warmup", warmup, least=0),
        timeout=checked_seconds("timeout", timeout),
        flush_cache=flush_cache,
        body=read_body({"temperature": temperature, "ignore_eos": ignore_eos, **parameters}, _arguments()),
        replay=() if replay is None else read_replay(replay),
        replay_name="" if replay is None else Path(replay).name,
    )
    levels = [options] if sweep is None else read_sweep(sweep, options)
    for level in levels:
        check_together(level)
    if progress not in (None, False) and not callable(progress):
        hint = "Give a function, False or None."
        raise ArgumentTypeError(f"progress is a {type(progress).__name__}", where="progress", hint=hint)
    thresholds = read_thresholds(goodput or {})
    targets = read_targets(endpoint)
    with contextlib.ExitStack() as stack:
        for target in targets:
            stack.callback(target.close)
            _ = target.model  # raises where no server answers
    runs = [(target, level) for target in targets for level in levels]
    running = RunningBench(runs, thresholds, progress, blocking=block)
    return running.result_or_interrupt() if block else running


def _arguments() -> list[str]:
    """Return the names of the arguments, for a hint about an unknown one."""
    return [name for name in inspect.signature(bench).parameters if name not in ("endpoint", "parameters")]
