"""Our load test and SGLang's `bench_serving`: the same figures of the same data, and of the same server."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.bench_serving import calculated, run_bench_serving
from support.timed_server import timed_server

import nbruntime
from nbruntime.embedded.models.resolve import resolve_model
from nbruntime.profiling.bench.results.run_figures import RunFigures
from nbruntime.profiling.bench_run import BenchRun
from nbruntime.profiling.records import RequestRecord

pytestmark = pytest.mark.sglang


def made_run(count: int, seed: int) -> BenchRun:
    """A run of random requests, each tenth of which failed."""
    random = np.random.default_rng(seed)
    requests = []
    for number, sent in enumerate(np.sort(random.uniform(1000, 1030, count)).tolist()):
        times = np.cumsum(random.exponential(0.05, random.integers(1, 40))).tolist()
        requests.append(
            RequestRecord(
                f"r{number}",
                sent,
                sent + times[-1] + random.exponential(0.002),
                tuple((at, 1) for at in times),
                "failed" if number % 10 == 5 else "finished",
                prompt_tokens=int(random.integers(1, 900)),
                completion_tokens=len(times),
            )
        )
    finished = [each for each in requests if each.status == "finished"]
    window = (requests[0].sent, max(each.ended for each in finished))
    return BenchRun("", "", "", "open", 4.0, None, *window, window, requests)


def test_the_figures_of_the_same_data_are_those_of_bench_serving() -> None:
    run = made_run(200, seed=3)
    figures = RunFigures(run, {"ttft": 0.1, "e2e": 1.0})
    theirs = calculated(run.requests, figures.seconds, {"ttft": 100, "e2el": 1000})
    ours = {
        "completed": figures.finished,
        "total_input": sum(each.prompt_tokens for each in figures.measured),
        "total_output": sum(each.completion_tokens for each in figures.measured),
        "request_throughput": figures.request_rate,
        "input_throughput": figures.prompt_token_rate,
        "output_throughput": figures.token_rate,
        "total_throughput": figures.total_token_rate,
        "max_output_tokens_per_s": figures.peak_token_rate,
        "concurrency": figures.concurrency,
        "request_goodput": figures.goodput,
        "slo_attainment": figures.attainment,
    }
    for name, times in (
        ("ttft", figures.ttft),
        ("tpot", figures.tpot),
        ("itl", figures.itl),
        ("e2e_latency", figures.e2e),
    ):
        ours[f"mean_{name}_ms"] = (times.mean or 0) * 1000
        ours[f"median_{name}_ms"] = (times.median or 0) * 1000
        for percent in (90, 95, 99):
            ours[f"p{percent}_{name}_ms"] = (times.quantile(percent / 100) or 0) * 1000
    assert {name: theirs[name] for name in ours} == pytest.approx(ours, rel=1e-6)
    # Theirs is counted by whole seconds, so it may be larger.
    assert figures.peak_concurrency <= theirs["max_concurrent_requests"]


def test_both_measure_the_same_of_the_same_server() -> None:
    """A server with known times: on one that computes, two runs after each other differ by themselves."""
    lengths = {"requests": 24, "concurrency": 4, "prompt_tokens": 32, "output_tokens": 16}
    with timed_server(first=0.08, step=0.02) as url:
        (run,) = nbruntime.bench(url, **lengths, warmup=0, progress=False).runs
        theirs = run_bench_serving(
            url,
            resolve_model().folder,
            num_prompts=lengths["requests"],
            max_concurrency=lengths["concurrency"],
            random_input_len=lengths["prompt_tokens"],
            random_output_len=lengths["output_tokens"],
        )
    figures = RunFigures(replace(run, steady=(run.started, run.ended)))
    ours = {
        "median_ttft_ms": (figures.ttft.median or 0) * 1000,
        "median_tpot_ms": (figures.tpot.median or 0) * 1000,
        "median_itl_ms": (figures.itl.median or 0) * 1000,
        "median_e2e_latency_ms": (figures.e2e.median or 0) * 1000,
        "output_throughput": figures.token_rate,
        "request_throughput": figures.request_rate,
        "concurrency": figures.concurrency,
    }
    for name, value in ours.items():
        print(f"{name}: {value:.4g}, bench_serving {theirs[name]:.4g}")
    assert ours == pytest.approx({name: theirs[name] for name in ours}, rel=0.1)
