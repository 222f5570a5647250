"""`nbruntime.bench` next to SGLang's own `bench_serving`, against the same servers in the same run.

Both send the same number of random prompts of the same length, as many at once, and ask for answers of the
same length. They take turns, each with an empty cache. What is compared are the figures of whole runs, from
the first sending to the last end, as `bench_serving` knows no warm-up among them. Every figure is the median
of the rounds, every ratio that of the medians: 1 means that both measure the same. One server is scripted,
with known times, the other is the embedded one, whose own speed changes with what else the machine does.

It needs an environment with SGLang 0.5.23, such as `make sglang-cpu` makes.

    PYTHONPATH=tests python benchmarks/load_test_peer.py [--rounds 3] [--requests 32] [--concurrency 4]
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from support.bench_serving import run_bench_serving
from support.timed_server import timed_server

from nbruntime import Runtime, bench
from nbruntime.profiling.bench.run_figures import RunFigures

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
            compare("scripted server", url, tokenizer, arguments)
        ours(runtime.url, arguments)  # warms up the server
        compare("embedded server", runtime.url, tokenizer, arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--output-tokens", type=int, default=32)
    found = os.environ.get("NBRUNTIME_TEST_SGLANG", ".venv-sglang/bin/python")
    parser.add_argument("--sglang", default=found, help="interpreter of an environment with SGLang")
    return parser.parse_args()


def compare(server: str, url: str, tokenizer: str, arguments: argparse.Namespace) -> None:
    """Let both measure a server in turns, and print their figures."""
    mine: list[dict[str, float]] = []
    peer: list[dict[str, float]] = []
    for number in range(arguments.rounds):
        turns = [(mine, lambda: ours(url, arguments)), (peer, lambda: theirs(url, tokenizer, arguments))]
        for found, measure in turns if number % 2 == 0 else reversed(turns):
            found.append(measure())
    print(f"{server:18}  nbruntime  bench_serving  ratio")
    for label, name in FIGURES.items():
        one, other = (median(each[name] for each in rounds) for rounds in (mine, peer))
        print(f"{label:18}  {one:9.4g}  {other:13.4g}  {one / other:5.3f}", flush=True)


def ours(url: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Run `nbruntime.bench`, and return its figures by the names of `bench_serving`."""
    (run,) = bench(
        url,
        requests=arguments.requests,
        concurrency=arguments.concurrency,
        prompt_tokens=arguments.prompt_tokens,
        output_tokens=arguments.output_tokens,
        warmup=0,
        progress=False,
    ).runs
    whole = RunFigures(replace(run, steady=(run.started, run.ended)))
    assert whole.finished == arguments.requests, [each.error for each in run.requests]
    medians = {"ttft": whole.ttft, "tpot": whole.tpot, "itl": whole.itl, "e2e_latency": whole.e2e}
    return {
        **{f"median_{name}_ms": (times.median or 0) * 1000 for name, times in medians.items()},
        "output_throughput": whole.token_rate or 0,
        "request_throughput": whole.request_rate or 0,
        "concurrency": whole.concurrency or 0,
    }


def theirs(url: str, tokenizer: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run `bench_serving`, and return its result."""
    return run_bench_serving(
        url,
        tokenizer,
        python=arguments.sglang,
        num_prompts=arguments.requests,
        max_concurrency=arguments.concurrency,
        random_input_len=arguments.prompt_tokens,
        random_output_len=arguments.output_tokens,
    )


if __name__ == "__main__":
    main()
