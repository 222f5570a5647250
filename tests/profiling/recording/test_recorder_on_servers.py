"""Recording a profile of a `Runtime`, and of the embedded server with its steps and traces."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import sglang as sgl
from support.embedded_server import PROMPT, STORY, EmbeddedServer
from support.fake_engine import installed, start

from nbruntime.endpoint import AsyncRuntimeEndpoint, RuntimeEndpoint


async def test_every_method_of_a_runtime_is_noted() -> None:
    with installed(), start() as runtime:
        async with runtime.profile() as profile:
            await asyncio.to_thread(runtime.generate, ["a", "b"])
            await asyncio.to_thread(runtime.encode, "a")
            assert [text async for text in runtime.async_generate("a")]
            runtime.endpoint.complete("a")
            async for _ in runtime.add_request("a"):
                break  # it is stopped when the generator is collected
        pids, named = runtime.pid, [each.route for each in profile.requests]
        assert pids is not None
        assert named == ["/generate", "/generate", "/encode", "/generate", "/generate", "/generate"]
        assert [each.status for each in profile.requests[:5]] == ["finished"] * 5
        assert profile.requests[0].index + 1 == profile.requests[1].index
        assert profile.steps == []
        assert profile.notes == []


def test_programs_are_noted(endpoint: RuntimeEndpoint) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += "The capital of France is" + sgl.gen("city", max_tokens=2)
        s += ", which is a" + sgl.select("kind", choices=[" city", " river"])

    with endpoint.profile() as profile:
        states = program.run_batch([{}, {}], backend=endpoint, num_threads=2, progress_bar=False)
    assert {state["kind"] for state in states} <= {" city", " river"}
    statuses = {each.status for each in profile.requests}
    assert statuses == {"finished"}
    texts = [each for each in profile.requests if each.completion_tokens == 2]
    assert len(texts) == 2
    choices = [each for each in profile.requests if each.index == 1]
    assert len(choices) == 2, "the second choice of each select"


def test_steps_of_the_profile(endpoint: RuntimeEndpoint) -> None:
    endpoint.complete(PROMPT, max_new_tokens=8)
    endpoint.flush_cache()
    with (
        endpoint.profile(interval=0.05) as profile,
        endpoint.stream(STORY, max_new_tokens=12, ignore_eos=True) as running,
    ):
        next(running)
        endpoint.complete(f"Now: {STORY * 3}", max_new_tokens=2)
        running.result()
    endpoint.complete(PROMPT, max_new_tokens=8)
    assert profile.steps_from == "step log"
    assert abs(profile.clock_offset) < 0.05
    numbers = [step.number for step in profile.steps]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert profile.ended is not None
    for step in profile.steps:
        assert profile.started - 0.05 <= step.start <= step.end <= profile.ended + 0.05
    story, long = profile.requests
    computed = sum(
        count
        for step in profile.steps
        if step.stage == "EXTEND"
        for rid, count in zip(step.rids, step.rid_tokens, strict=True)
        if rid == long.rid
    )
    assert computed == long.new_prompt_tokens > 40
    decoded = [step for step in profile.steps if step.stage == "DECODE" and story.rid in step.rids]
    assert len(decoded) == story.completion_tokens - 1
    phases = profile.phases(story)
    assert phases.prefill is not None
    assert story.sent <= phases.prefill <= (phases.decode or 0) <= story.ended
    assert profile.samples[-1].load.max_total_num_tokens
    assert profile.latencies["time_to_first_token_seconds"].total >= 2
    assert profile.notes == []


@pytest.mark.parametrize("kind", ["plain", "by stage"])
async def test_traces_are_found(server: EmbeddedServer, tmp_path: Path, kind: str) -> None:
    stages = {"plain": [""], "by stage": ["-DECODE", "-EXTEND"]}[kind]
    async with (
        AsyncRuntimeEndpoint(server.url) as client,
        client.profile(
            trace=True,
            num_steps=3,
            output_dir=str(tmp_path),
            profile_by_stage=kind == "by stage",
            profile_prefix="mine",
        ) as profile,
    ):
        await client.complete(PROMPT, max_new_tokens=8, ignore_eos=True)
    names = [Path(path).name for path in profile.trace_files]
    assert [name.partition("-TP-0")[2] for name in names] == [f"{stage}.trace.json.gz" for stage in stages]
    assert all(name.startswith("mine-") for name in names)
    of_stages = " of each stage" if kind == "by stage" else ""
    assert profile.notes == [f"The trace holds at most 3 steps{of_stages}; num_steps=... changes that."]
    with gzip.open(profile.trace_files[0], "rt") as file:
        assert any("step[" in str(event.get("name")) for event in json.load(file)["traceEvents"])
    assert len(profile.steps) == 8


def test_a_trace_without_a_step_is_said(endpoint: RuntimeEndpoint, tmp_path: Path) -> None:
    with endpoint.profile(trace=True, output_dir=str(tmp_path)) as profile:
        pass
    assert profile.trace_files == []
    assert [note.partition(":")[0] for note in profile.notes] == [f"No trace was found in {tmp_path}"]
