"""How well a load test measures: its error, its lateness, and what its client costs.

A scripted server in a process of its own answers with known times, and notes when it has written each token.
The error of a TTFT or ITL is the difference between what the load test measured and what the server did. It
holds the way through the kernel's sockets, which every client has.

    PYTHONPATH=tests python benchmarks/load_test.py
"""

from __future__ import annotations

import argparse
import json
import os
import urllib.request
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from support.timed_server import timed_server

import nbruntime
from nbruntime.profiling.bench_run import BenchRun

FIRST, STEP = 0.1, 0.02


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[round(share * (len(ordered) - 1))]


def written(url: str) -> dict[str, list[float]]:
    """When the server has written the tokens of each request."""
    with urllib.request.urlopen(f"{url}/asked", timeout=60) as answer:
        seen: dict[str, Any] = json.load(answer)
    return {each["rid"]: each["written"] for each in seen["asked"]}


def errors(run: BenchRun, truth: dict[str, list[float]]) -> tuple[list[float], list[float]]:
    """By how much TTFT and ITL of the steady state differ from the truth."""
    ttft, itl = [], []
    for each in run.requests:
        if not run.steady[0] <= each.sent <= run.steady[1]:
            continue
        mine, real = [at for at, _ in each.arrivals], truth[each.rid]
        ttft.append(mine[0] - real[0])
        gaps = zip(pairwise(mine), pairwise(real), strict=True)
        itl += [(later - earlier) - (after - before) for (earlier, later), (before, after) in gaps]
    return ttft, itl


def measure(name: str, **options: Any) -> None:
    with timed_server(first=FIRST, step=STEP) as url:
        [run] = nbruntime.bench(url, prompt_tokens=256, progress=False, **options).runs
        ttft, itl = errors(run, written(url))
    late = [each.lateness for each in run.requests if each.lateness is not None]
    figures = [ttft, [abs(error) for error in itl], late]
    parts = [f"{quantile(each, share) * 1e3:8.2f}" for each in figures for share in (0.5, 0.9)]
    print(f"{name:34} {len(run.requests):5} {' '.join(parts)}")
    for note in run.notes:
        print(f"    {note}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="times that each load is measured")
    arguments = parser.parse_args()
    print(f"in ms; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    print(f"{'':40} {'TTFT error':>17} {'|ITL error|':>17} {'lateness':>17}")
    print(f"{'load':34} {'n':>5} {'  median      90 %' * 3}")
    for _ in range(arguments.rounds):
        measure("1 user", concurrency=1, requests=10, output_tokens=30)
        measure("8 users", concurrency=8, requests=48, output_tokens=(20, 40))
        measure("64 users", concurrency=64, requests=256, output_tokens=(20, 60))
        measure("64 users, answers of one length", concurrency=64, requests=256, output_tokens=40)
        measure("40 requests/s", rate=40.0, requests=240, output_tokens=(20, 60))


if __name__ == "__main__":
    main()
