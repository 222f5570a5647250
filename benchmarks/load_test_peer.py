"""`nbruntime.bench` next to SGLang's own `bench_serving`, against one embedded server in the same run.

Both send the same number of random prompts of the same length, as many at once, and ask for answers of the
same length. They take turns, each with an empty cache. What is compared are the figures of whole runs, from
the first sending to the last end, as `bench_serving` knows no warm-up among them. Every figure is the median
of the rounds, every ratio that of the medians: 1 means that both measure the same.

It needs an environment with SGLang 0.5.23, such as `make sglang-cpu` makes.

    python benchmarks/load_test_peer.py [--rounds 5] [--requests 48] [--concurrency 4] [--within 0.1]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from nbruntime import Runtime, bench
from nbruntime.profiling.bench.run_figures import RunFigures

ROOT = Path(__file__).parents[1]

STAND_INS = ROOT / "tests" / "sglang_cpu" / "stand_ins"
"""Without a GPU, SGLang can be imported only with these in place of its kernels."""

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


def main() -> int:
    arguments = parse()
    python = arguments.sglang
    if not Path(python).exists():
        print(f"left out: there is no {python}; make sglang-cpu makes an environment with SGLang")
        return 0
    ours: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []
    with Runtime() as runtime, tempfile.TemporaryDirectory() as folder:
        measure_ours(runtime, arguments)  # warms up the server
        for number in range(arguments.rounds):
            ours.append(measure_ours(runtime, arguments))
            theirs.append(measure_theirs(runtime, arguments, Path(folder) / f"{number}.jsonl"))
    furthest = 0.0
    print(f"{'':18}  nbruntime  bench_serving  ratio")
    for label, name in FIGURES.items():
        one, other = (median(each[name] for each in rounds) for rounds in (ours, theirs))
        furthest = max(furthest, abs(one / other - 1))
        print(f"{label:18}  {one:9.4g}  {other:13.4g}  {one / other:5.3f}")
    print(f"furthest from 1: {furthest:.1%}")
    if arguments.within is not None and furthest > arguments.within:
        print(f"not within {arguments.within:.0%}")
        return 1
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument("--within", type=float, help="fail if a ratio is further from 1")
    found = os.environ.get("NBRUNTIME_TEST_SGLANG") or str(ROOT / ".venv-sglang" / "bin" / "python")
    parser.add_argument("--sglang", default=found, help="interpreter of an environment with SGLang")
    return parser.parse_args()


def measure_ours(runtime: Runtime, arguments: argparse.Namespace) -> dict[str, float]:
    """Run `nbruntime.bench`, and return its figures by the names of `bench_serving`."""
    result = bench(
        runtime,
        requests=arguments.requests,
        concurrency=arguments.concurrency,
        prompt_tokens=arguments.prompt_tokens,
        output_tokens=arguments.output_tokens,
        warmup=0,
        progress=False,
    )
    (run,) = result.runs
    whole = RunFigures(replace(run, steady=(run.started, run.ended)))
    assert whole.finished == arguments.requests, [each.error for each in run.requests]
    medians = {"ttft": whole.ttft, "tpot": whole.tpot, "itl": whole.itl, "e2e_latency": whole.e2e}
    return {
        **{f"median_{name}_ms": (times.median or 0) * 1000 for name, times in medians.items()},
        "output_throughput": whole.token_rate or 0,
        "request_throughput": whole.request_rate or 0,
        "concurrency": whole.concurrency or 0,
    }


def measure_theirs(runtime: Runtime, arguments: argparse.Namespace, output: Path) -> dict[str, float]:
    """Run `bench_serving`, and return its result."""
    url = urlsplit(runtime.url)
    model = runtime.endpoint.get_model_info()["tokenizer_path"]
    options = {
        "backend": "sglang",
        "host": url.hostname,
        "port": url.port,
        "model": model,
        "tokenizer": model,
        "dataset-name": "random-ids",
        "num-prompts": arguments.requests,
        "max-concurrency": arguments.concurrency,
        "random-input-len": arguments.prompt_tokens,
        "random-output-len": arguments.output_tokens,
        "random-range-ratio": 1.0,
        "output-file": output,
    }
    command = [arguments.sglang, "-m", "sglang.benchmark.serving"]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command += ["--tokenize-prompt", "--flush-cache", "--disable-tqdm"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(STAND_INS),
        "SGLANG_USE_CPU_ENGINE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    if ended.returncode:
        sys.exit(f"bench_serving failed:\n{ended.stdout[-2000:]}\n{ended.stderr[-4000:]}")
    found: dict[str, float] = json.loads(output.read_text())
    assert found["completed"] == arguments.requests, ended.stdout
    return found


if __name__ == "__main__":
    sys.exit(main())
