"""Profiles of SGLang's real server: its load, its clock, its histograms and its traces."""

from __future__ import annotations

import gzip
import threading
from pathlib import Path

import pytest
from support.sglang_server import SglangServer

from nbruntime import read_trace

pytestmark = pytest.mark.sglang

PROMPT = "The capital of France is"


def test_a_profile_with_a_trace(sglang: SglangServer, tmp_path: Path) -> None:
    runtime = sglang.runtime
    runtime.generate(PROMPT, {"max_new_tokens": 4})
    with runtime.profile(
        interval=0.1, trace=True, activities=["CPU"], output_dir=str(tmp_path), num_steps=500
    ) as profile:
        streams = [
            runtime.endpoint.stream(f"{n}: {PROMPT}", max_new_tokens=16, ignore_eos=True) for n in range(3)
        ]
        threads = [threading.Thread(target=each.result) for each in streams]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(profile)
    assert [each.status for each in profile.requests] == ["finished"] * 3
    assert [each.completion_tokens for each in profile.requests] == [16] * 3
    assert all(each.arrivals and "forward_entry_time" in each.server_times for each in profile.requests)
    assert abs(profile.clock_offset) < 0.05
    assert max(each.load.num_running_reqs or 0 for each in profile.samples) >= 1
    assert profile.latencies["e2e_request_latency_seconds"].total == 3
    assert (profile.steps, profile.steps_from, profile.notes) == ([], "", [])
    (trace,) = profile.trace_files
    with gzip.open(trace, "rt", errors="replace") as file:
        assert "step[DECODE bs=3" in file.read()


def test_a_trace_that_ends_by_itself(sglang: SglangServer, tmp_path: Path) -> None:
    endpoint = sglang.runtime.endpoint
    options = {"activities": ["CPU"], "output_dir": str(tmp_path)}
    with endpoint.profile(trace=True, num_steps=3, **options) as profile:
        endpoint.complete(PROMPT, max_new_tokens=12)
    assert profile.notes == ["The trace holds at most 3 steps; num_steps=... changes that."]
    assert len(profile.trace_files) == 1
    with endpoint.profile(trace=True, num_steps=3, profile_by_stage=True, **options) as profile:
        endpoint.complete(PROMPT, max_new_tokens=12)
    stages = [name.rpartition("-")[2] for name in profile.trace_files]
    assert stages == ["DECODE.trace.json.gz", "EXTEND.trace.json.gz"], profile.notes


def test_a_profiler_that_runs_already(sglang: SglangServer, tmp_path: Path) -> None:
    """SGLang does not refuse a second start, and goes on with the options of the first."""
    endpoint = sglang.runtime.endpoint
    first, second = tmp_path / "first", tmp_path / "second"
    endpoint.start_profile(output_dir=str(first), activities=["CPU"])
    with endpoint.profile(trace=True, activities=["CPU"], output_dir=str(second)) as profile:
        endpoint.complete(PROMPT, max_new_tokens=2)
    assert profile.trace_files == []
    (note,) = profile.notes
    assert note.startswith(f"No trace was found in {second}: ")
    assert "was running already" in note
    assert len(list(first.iterdir())) == 1


def test_steps_of_a_trace_are_what_was_asked(sglang: SglangServer, tmp_path: Path) -> None:
    body = {"output_dir": str(tmp_path), "activities": ["CPU"], "profile_id": "1", "record_shapes": True}
    assert sglang.post("/start_profile", body).status_code == 200
    first = sglang.generate("A trace of the capital of France", max_new_tokens=5, ignore_eos=True)
    pair = sglang.generate(["One trace", "Two traces, too"], max_new_tokens=3, ignore_eos=True)
    assert sglang.post("/stop_profile").status_code == 200
    trace = read_trace(tmp_path)
    print(trace)
    assert (trace.ranks, trace.notes) == (["TP0"], [])
    new = [each["meta_info"]["prompt_tokens"] - each["meta_info"]["cached_tokens"] for each in (first, *pair)]
    extends = [step for step in trace.steps if step.stage == "EXTEND"]
    decodes = [step for step in trace.steps if step.stage == "DECODE"]
    assert extends[0].tokens == new[0]
    assert sum(step.tokens for step in extends[1:]) == sum(new[1:])
    assert [step.batch_size for step in decodes[:4]] == [1] * 4
    assert sum(step.batch_size for step in decodes[4:]) == 2 * 2
    assert abs(trace.steps[0].start - first["meta_info"]["forward_entry_time"]) < 0.1
    classes = trace.classes()
    assert max(classes, key=lambda kind: classes[kind]) == "gemm"
    inside = trace.step_of[trace.events.of("cpu_op")] >= 0
    assert inside.mean() > 0.5
