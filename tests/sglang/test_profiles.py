"""Profiles of SGLang's real server: its load, its clock, its histograms and its traces."""

from __future__ import annotations

import gzip
import threading
from pathlib import Path

import pytest
from support.sglang_server import SglangServer

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
