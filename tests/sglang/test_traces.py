"""Traces of SGLang's real server."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.sglang_server import SglangServer

from nbruntime import read_trace

pytestmark = pytest.mark.sglang


def test_steps_are_what_was_asked(sglang: SglangServer, tmp_path: Path) -> None:
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
