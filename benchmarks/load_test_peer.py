"""`nbruntime.bench` next to SGLang's own `bench_serving`, on the same servers in the same run.

Both send random prompts of the same lengths, as many at once, and ask for answers of the same lengths. On a
scripted server, whose times are known, they take turns. On the embedded one, whose speed changes with what
else the machine does, they run at the same time, and ours counts what was sent while `bench_serving` ran.
`bench_serving` knows no steady state, so the figures are those of its whole run. Every figure is the median
of the rounds, every ratio that of the medians: 1 means that both measure the same.

It needs an environment with SGLang 0.5.23, such as `make sglang-cpu` makes.

    PYTHONPATH=tests python benchmarks/load_test_peer.py [--rounds 1] [--requests 150] [--concurrency 2]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from support.bench_serving import run_bench_serving
from support.timed_server import timed_server

from nbruntime import Runtime, bench
from nbruntime.profiling.bench.results.run_figures import RunFigures
from nbruntime.profiling.bench_run import BenchRun

Found = dict[str, float]
Measure = Callable[[str, str, argparse.Namespace, int], tuple[Found, Found]]

FIGURES = {
    "median TTFT, ms": "median_ttft_ms",
    "median TPOT, ms": "median_tpot_ms",
    "median ITL, ms": "median_itl_ms",
    "median E2E, ms": "median_e2e_latency_ms",
    "output tokens/s": "output_throughput",
    "requests/s": "request_throughput",
    "concurrency": "concurrency",
}
"""The figures, and their names in the results of `bench_serving`."""


def main() -> None:
    arguments = parse()
    if not Path(arguments.sglang).exists():
        print(f"left out: there is no {arguments.sglang}; make sglang-cpu makes an environment with SGLang")
        return
    with Runtime() as runtime:
        tokenizer = runtime.endpoint.model_info["tokenizer_path"]
        with timed_server(first=0.1, step=0.02) as url:
            compare("scripted, in turns", in_turns, url, tokenizer, arguments)
        compare("embedded, together", together, runtime.url, tokenizer, arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--requests", type=int, default=150)
    parser.add_argument("--concurrency", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=32, help="at most; half of it at least")
    parser.add_argument("--output-tokens", type=int, default=16, help="at most; half of it at least")
    found = os.environ.get("NBRUNTIME_TEST_SGLANG", ".venv-sglang/bin/python")
    parser.add_argument("--sglang", default=found, help="interpreter of an environment with SGLang")
    return parser.parse_args()


def compare(title: str, measure: Measure, url: str, tokenizer: str, arguments: argparse.Namespace) -> None:
    """Let both measure a server some times, and print their figures."""
    rounds = [measure(url, tokenizer, arguments, number) for number in range(arguments.rounds)]
    print(f"{title:18}  nbruntime  bench_serving  ratio")
    for label, name in FIGURES.items():
        one, other = (median(each[side][name] for each in rounds) for side in (0, 1))
        print(f"{label:18}  {one:9.4g}  {other:13.4g}  {one / other:5.3f}", flush=True)


def in_turns(url: str, tokenizer: str, arguments: argparse.Namespace, number: int) -> tuple[Found, Found]:
    """Run one after the other, in changing order."""
    peer = theirs(url, tokenizer, arguments, number) if number % 2 else None
    (run,) = bench(url, requests=arguments.requests, warmup=0, **load(arguments, number)).runs
    mine = figures(run, run.started, run.ended)
    return mine, peer or theirs(url, tokenizer, arguments, number)


def together(url: str, tokenizer: str, arguments: argparse.Namespace, number: int) -> tuple[Found, Found]:
    """Run both at the same time; ours begins earlier and ends later."""
    running = bench(url, seconds=3600, block=False, **load(arguments, number))
    try:
        peer = theirs(url, tokenizer, arguments, number)
    finally:
        running.stop()
        (run,) = running.result().runs
    return figures(run, peer["ended"] - peer["duration"], peer["ended"]), peer


def load(arguments: argparse.Namespace, number: int) -> dict[str, Any]:
    """Return the arguments of our load test."""
    return {
        "concurrency": arguments.concurrency,
        "prompt_tokens": (arguments.prompt_tokens // 2, arguments.prompt_tokens),
        "output_tokens": (arguments.output_tokens // 2, arguments.output_tokens),
        "seed": number,
        "flush_cache": False,
        "progress": False,
    }


def figures(run: BenchRun, started: float, ended: float) -> Found:
    """Return our figures between two times, by the names of `bench_serving`."""
    found = RunFigures(replace(run, steady=(started, ended)))
    assert not found.failed, [each.error for each in run.requests]
    medians = {"ttft": found.ttft, "tpot": found.tpot, "itl": found.itl, "e2e_latency": found.e2e}
    return {
        **{f"median_{name}_ms": (times.median or 0) * 1000 for name, times in medians.items()},
        "output_throughput": found.token_rate or 0,
        "request_throughput": found.request_rate or 0,
        "concurrency": found.concurrency or 0,
    }


def theirs(url: str, tokenizer: str, arguments: argparse.Namespace, number: int) -> Found:
    """Run `bench_serving`, and return its result."""
    return run_bench_serving(
        url,
        tokenizer,
        python=arguments.sglang,
        num_prompts=arguments.requests,
        max_concurrency=arguments.concurrency,
        random_input_len=arguments.prompt_tokens,
        random_output_len=arguments.output_tokens,
        random_range_ratio=0.5,
        seed=100 + number,
    )


if __name__ == "__main__":
    main()
