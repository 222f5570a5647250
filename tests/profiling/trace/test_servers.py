"""Traces that real servers wrote."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from support.embedded_server import PROMPT, EmbeddedServer

from nbruntime import read_trace

# SGLang 0.5.23 on the CPU with detailed_annotations; see the README beside it.
RECORDED = Path(__file__).parents[2] / "data" / "traces" / "sglang-TP-0.trace.json.gz"


def test_steps_of_the_recorded_sglang_server_are_what_was_asked() -> None:
    trace = read_trace(RECORDED)
    print(trace)
    assert (trace.ranks, trace.notes, trace.on_gpu) == (["TP0"], [], False)
    assert [(step.stage, step.batch_size, step.tokens) for step in trace.steps] == [
        ("EXTEND", 1, 8),
        *[("DECODE", 1, 1)] * 4,
        ("EXTEND", 2, 5),
        *[("DECODE", 2, 2)] * 2,
    ]
    # The times of the server's own answer to the first request: begin of its first pass, end of its prefill.
    assert 0 < trace.steps[0].start - 1795958216.024794 < 0.01
    assert trace.steps[0].end < 1795958216.4827392
    assert set(trace.step_of.tolist()) == set(range(8))
    rows = {row.name: row for row in trace.operators()}
    assert rows["aten::embedding"].calls == 8  # one for each step
    assert rows["aten::mm"].kind == "gemm"


def test_the_columns_of_a_real_trace_equal_its_json() -> None:
    with gzip.open(RECORDED) as file:
        parsed = json.load(file)
    slices = [event for event in parsed["traceEvents"] if event["ph"] == "X" and event["cat"] != "Trace"]
    trace = read_trace(RECORDED)
    events = trace.events
    found = sorted(
        zip(events.start, events.duration, (trace.names[name] for name in events.name), strict=True)
    )
    base = parsed["baseTimeNanoseconds"]
    expected = sorted((base + round(e["ts"] * 1000), round(e["dur"] * 1000), e["name"]) for e in slices)
    assert len(found) == len(expected) > 2000
    for one, other in zip(found, expected, strict=True):
        assert one[2] == other[2]
        assert one[:2] == pytest.approx(other[:2], abs=1)


@pytest.mark.model
def test_steps_of_the_embedded_server_are_what_was_asked(server: EmbeddedServer, tmp_path: Path) -> None:
    server.wait_idle()
    server.post("/flush_cache", {})
    whole = {"output_dir": str(tmp_path / "whole"), "with_stack": False, "profile_id": "1"}
    assert server.post("/start_profile", whole).status_code == 200
    first = server.generate(PROMPT, max_new_tokens=5, ignore_eos=True)["meta_info"]
    pair = server.generate(["2+2=", "One, two, three,"], max_new_tokens=3, ignore_eos=True)
    assert server.post("/stop_profile").status_code == 200
    trace = read_trace(tmp_path / "whole")
    print(trace)
    assert (trace.ranks, trace.notes) == (["TP0"], [])
    new = [answer["meta_info"]["prompt_tokens"] - answer["meta_info"]["cached_tokens"] for answer in pair]
    extends = [step for step in trace.steps if step.stage == "EXTEND"]
    decodes = [step for step in trace.steps if step.stage == "DECODE"]
    assert extends[0].tokens == first["prompt_tokens"] - first["cached_tokens"]
    assert sum(step.tokens for step in extends[1:]) == sum(new)
    assert sum(step.batch_size for step in extends) == 3
    assert [step.batch_size for step in decodes[:4]] == [1] * 4
    assert sum(step.tokens for step in decodes[4:]) == 2 * 2
    assert trace.steps == sorted(trace.steps, key=lambda step: step.start)
    classes = trace.classes()
    # Which of them took the most depends on the machine; llama.cpp runs outside of torch.
    assert classes["gemm"] + classes["attention"] + classes["other"] > 0.5 * sum(classes.values())

    staged = {"output_dir": str(tmp_path / "staged"), "with_stack": False, "profile_id": "2"}
    assert (
        server.post("/start_profile", staged | {"profile_by_stage": True, "num_steps": 2}).status_code == 200
    )
    server.generate(PROMPT, max_new_tokens=6, ignore_eos=True)
    trace = read_trace(tmp_path / "staged")
    assert [path.name for path in trace.paths] == [
        "2-TP-0-DECODE.trace.json.gz",
        "2-TP-0-EXTEND.trace.json.gz",
    ]
    assert [step.stage for step in trace.steps] == ["EXTEND", "DECODE", "DECODE"]
    assert (trace.ranks, trace.notes) == (["TP0"], [])
