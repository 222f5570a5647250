"""Profiles of steps, and the metrics of the embedded server."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.embedded_server import PROMPT, EmbeddedServer
from support.server_client import wait_until

from nbruntime.embedded.engine.profiler import ProfileOptions, StepProfiler
from nbruntime.embedded.engine.scheduler import DecodeStep


def spans(path: Path) -> list[str]:
    with gzip.open(path, "rt") as trace:
        events = json.load(trace)["traceEvents"]
    return [event["name"] for event in events if str(event.get("name", "")).startswith("step[")]


EXTEND, DECODE = r"step\[EXTEND bs=\d+ toks=\d+\]", r"step\[DECODE bs=\d+\]"


@pytest.mark.model
def test_profiles(server: EmbeddedServer, tmp_path: Path) -> None:
    server.wait_idle()
    # SGLang's own tool sends its numbers as texts.
    options = {"output_dir": str(tmp_path), "num_steps": "4", "with_stack": False, "profile_id": "mine"}
    assert server.post("/start_profile", options).status_code == 200
    assert server.post("/start_profile", options).status_code == 500
    server.generate(PROMPT, max_new_tokens=6)
    (whole,) = tmp_path.iterdir()
    assert whole.name == "mine-TP-0.trace.json.gz"
    steps = spans(whole)
    assert re.fullmatch(EXTEND, steps[0])
    assert [bool(re.fullmatch(DECODE, step)) for step in steps] == [False, True, True, True]
    assert server.post("/stop_profile").status_code == 500

    staged = options | {"profile_by_stage": True, "num_steps": 2, "profile_prefix": "staged"}
    assert server.post("/start_profile", staged).status_code == 200
    server.generate(PROMPT, max_new_tokens=6)
    extend, decode = (tmp_path / f"staged-mine-TP-0-{stage}.trace.json.gz" for stage in ("EXTEND", "DECODE"))
    assert [bool(re.fullmatch(EXTEND, step)) for step in spans(extend)] == [True]
    assert [bool(re.fullmatch(DECODE, step)) for step in spans(decode)] == [True, True]
    assert server.post("/stop_profile").status_code == 500

    by_hand = {"output_dir": str(tmp_path / "new" / "folder"), "record_shapes": False, "with_stack": False}
    assert server.get("/start_profile").status_code == 200
    assert server.post("/stop_profile").status_code == 200
    assert server.post("/start_profile", by_hand).status_code == 200
    server.generate(PROMPT, max_new_tokens=2)
    assert server.post("/stop_profile").text.startswith("Stop profiling.")
    (found,) = (tmp_path / "new" / "folder").iterdir()
    assert len(spans(found)) == 2


def test_a_profile_that_cannot_be_written_fails_no_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    profiler = StepProfiler()
    profiler.start(
        ProfileOptions(output_dir=str(tmp_path / "gone"), num_steps=1, with_stack=False, profile_id="x")
    )
    shutil.rmtree(tmp_path / "gone")
    with profiler.step(DecodeStep(())):
        pass
    assert "the profile could not be written" in caplog.text
    assert not profiler.active


@pytest.mark.model
def test_metrics_count_requests_and_tokens(server: EmbeddedServer) -> None:
    def read() -> dict[str, float]:
        answer = server.get("/metrics")
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        samples = [
            sample for family in text_string_to_metric_families(answer.text) for sample in family.samples
        ]
        assert all("model_name" in sample.labels for sample in samples)
        return {sample.name: sample.value for sample in samples if "le" not in sample.labels}

    server.wait_idle()
    before = read()
    server.generate([PROMPT, "2+2="], max_new_tokens=5, ignore_eos=True)
    server.events(PROMPT, max_new_tokens=3)
    wait_until(lambda: read()["sglang:num_requests_total"] == before["sglang:num_requests_total"] + 3)
    after = read()
    grown = {name: after[name] - before[name] for name in before if after[name] != before[name]}
    print(grown)
    assert grown["sglang:num_requests_total"] == 3
    assert grown["sglang:generation_tokens_total"] == 13
    assert grown["sglang:prompt_tokens_total"] == 14
    assert grown["sglang:time_to_first_token_seconds_count"] == 3
    assert grown["sglang:e2e_request_latency_seconds_count"] == 3
    assert after["sglang:num_running_reqs"] == 0
