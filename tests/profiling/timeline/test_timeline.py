"""Timelines are read back as Perfetto reads them: on one clock, sorted, no two slices across each other."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from support.hand_profiles import START, decode, extend, profile, request, sample, with_server_times
from support.simulated_profile import simulated_profile

from nbruntime import errors
from nbruntime.profiling.profile import Profile
from nbruntime.profiling.timeline.timeline import write_timeline
from nbruntime.protocol.step_log import Step


def written(made: Any, path: Path) -> dict[str, Any]:
    assert write_timeline(path, made) == path
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    timeline: dict[str, Any] = json.loads(content)
    check(timeline["traceEvents"])
    return timeline


def check(events: list[dict[str, Any]]) -> None:
    """Check what a viewer needs: times in order, slices that nest, flows with both ends inside of slices."""
    timed = [event for event in events if event["ph"] != "M"]
    assert [event["ts"] for event in timed] == sorted(event["ts"] for event in timed)
    tracks: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for event in timed:
        if event["ph"] == "X":
            start = round(event["ts"] * 1000)
            end = start + round(event["dur"] * 1000)
            tracks.setdefault((event["pid"], event["tid"]), []).append((start, end))
    for slices in tracks.values():
        stack: list[int] = []
        for start, end in slices:
            while stack and stack[-1] <= start:
                stack.pop()
            assert not stack or end <= stack[-1], "slices of a track overlap"
            stack.append(end)
    for event in timed:
        if event["ph"] in "sf":
            at = round(event["ts"] * 1000)
            assert any(start <= at <= end for start, end in tracks[event["pid"], event["tid"]])
    named = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
    assert tracks.keys() <= named


def slices(timeline: dict[str, Any], category: str) -> list[dict[str, Any]]:
    return [event for event in timeline["traceEvents"] if event.get("cat") == category]


def processes(timeline: dict[str, Any]) -> list[str]:
    named = [event for event in timeline["traceEvents"] if event["name"] == "process_name"]
    return [event["args"]["name"] for event in named]


@pytest.mark.parametrize("name", ["all.json", "all.json.gz"])
def test_requests_steps_and_load(tmp_path: Path, name: str) -> None:
    made = profile(
        request("a", 0, 1, 4, **with_server_times(0.125, 0.5, 1)),
        request("b", 2, 3, 5, prompt_tokens=7),
        steps=[extend(0.5, 1, a=10), decode(1, 2, "a"), extend(2.5, 3, b=7)],
        samples=[sample(1, num_running_reqs=1, num_waiting_reqs=0)],
    )
    timeline = written(made, tmp_path / name)
    assert timeline["baseTimeNanoseconds"] == START * 1e9
    first, second = slices(timeline, "request")
    assert (first["name"], first["ts"], first["dur"]) == ("a", 0, 4e6)
    assert second["args"] == {
        "prompt tokens": 7,
        "cached tokens": 0,
        "new tokens": 2,
        "TTFT, ms": 1000.0,
        "TPOT, ms": 2000.0,
        "status": "finished",
    }
    assert first["tid"] != second["tid"]  # they overlap
    phases = [(each["name"], each["ts"], each["dur"]) for each in slices(timeline, "phase")]
    assert ("queue", 0.125e6, 0.375e6) in phases
    assert ("prefill", 0.5e6, 0.5e6) in phases
    assert ("decode", 1e6, 3e6) in phases
    steps = slices(timeline, "step")
    assert [(each["name"], each["ts"]) for each in steps] == [
        ("EXTEND bs=1 toks=10", 0.5e6),
        ("DECODE bs=1 toks=1", 1e6),
        ("EXTEND bs=1 toks=7", 2.5e6),
    ]
    assert steps[0]["args"]["requests"] == "a"
    flows = slices(timeline, "flow")
    assert [(each["ph"], each["id"]) for each in flows] == [("s", 0), ("f", 0), ("s", 1), ("f", 1)]
    (counter,) = (event for event in timeline["traceEvents"] if event["ph"] == "C")
    assert (counter["name"], counter["args"]) == ("requests", {"running": 1, "queued": 0})
    assert processes(timeline) == ["client", "server steps"]


def test_many_requests_of_a_busy_server(tmp_path: Path) -> None:
    data = simulated_profile()
    timeline = written(data, tmp_path / "all.json")
    assert len(slices(timeline, "request")) == len(data.requests)
    assert len(slices(timeline, "step")) == len(data.steps)


def test_an_empty_profile(tmp_path: Path) -> None:
    assert written(Profile(), tmp_path / "all.json")["traceEvents"]


def test_nothing_is_left_of_a_timeline_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "all.json"
    path.write_text("before")
    broken = profile(request("a", 0, 1), steps=[Step("EXTEND", START, 1.0, 1, 1, rids=(object(),))])  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        write_timeline(path, broken)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def kineto(path: Path, events: list[dict[str, Any]], base: float | None = START - 1) -> Path:
    """Write a trace whose times count from `base`, a Unix time, or say no time of day."""
    head = {} if base is None else {"baseTimeNanoseconds": round(base * 1e9)}
    path.write_text(json.dumps({"schemaVersion": 1, **head, "traceEvents": events}))
    return path


def spanned(
    name: str, start: float, seconds: float, thread: int = 1, category: str = "cpu_op"
) -> dict[str, Any]:
    times = {"ts": start * 1e6, "dur": seconds * 1e6}
    return {"ph": "X", "name": name, "cat": category, "pid": 7, "tid": thread, **times, "args": {}}


def stepped(name: str, start: float, seconds: float) -> dict[str, Any]:
    return spanned(f"step[{name}]", start, seconds, category="user_annotation")


def traced(**fields: Any) -> Profile:
    """A profile of one request in three steps."""
    steps = [extend(0.5, 1, a=10), decode(1.25, 1.5, "a"), decode(1.75, 2, "a")]
    return profile(request("a", 0, 1, 1.5, 2), **{"steps": steps, **fields})


def test_a_trace_lies_on_the_clock_of_the_steps(tmp_path: Path) -> None:
    # The server's clock is 100 s ahead, and its profile says 99.9: the steps show the rest.
    events = [
        stepped("EXTEND bs=1 toks=10", 101.5, 0.5),
        spanned("aten::mm", 101.6, 0.25),
        stepped("DECODE bs=1", 102.25, 0.25),
        stepped("DECODE bs=1", 102.75, 0.25),
    ]
    made = traced(clock_offset=99.9)
    made.load_trace(kineto(tmp_path / "1-TP-0.trace.json", events))
    assert made.steps == traced().steps  # those of the log stay
    timeline = written(made, tmp_path / "all.json")
    assert processes(timeline) == ["client", "server steps", "trace TP0"]
    spans = slices(timeline, "user_annotation")
    steps = slices(timeline, "step")
    assert len(spans) == len(steps) == 3
    for span, step in zip(spans, steps, strict=True):
        assert span["ts"] == pytest.approx(step["ts"], abs=2)  # µs
        assert span["dur"] == pytest.approx(step["dur"], abs=2)
    (operator,) = slices(timeline, "cpu_op")
    assert (operator["name"], operator["ts"]) == ("aten::mm", pytest.approx(0.6e6, abs=2))
    assert "by the steps" in timeline["otherData"]["notes"][-1]


def test_a_trace_without_a_time_of_day_is_joined_by_the_rhythm_of_its_steps(tmp_path: Path) -> None:
    others = [decode(at, at + 0.01, "z") for at in (0.1, 0.2, 0.3, 2.5, 2.75)]
    events = [
        stepped("EXTEND bs=1 toks=10", 41.5, 0.5),
        stepped("DECODE bs=1", 42.25, 0.25),
        stepped("DECODE bs=1", 42.75, 0.25),
    ]
    made = traced(steps=sorted([*others, *traced().steps], key=lambda step: step.start))
    made.load_trace(kineto(tmp_path / "1-TP-0.trace.json", events, base=None))
    timeline = written(made, tmp_path / "all.json")
    spans = slices(timeline, "user_annotation")
    assert [span["ts"] for span in spans] == pytest.approx([0.5e6, 1.25e6, 1.75e6], abs=2)


def test_the_steps_of_a_trace_stand_in_for_a_log(tmp_path: Path) -> None:
    events = [stepped("EXTEND bs=1 toks=10", 1.5, 0.5), stepped("DECODE bs=1", 2.25, 0.25)]
    path = kineto(tmp_path / "1-TP-0.trace.json", events)
    made = traced(steps=[], trace_files=[str(path)])
    made.timeline(tmp_path / "all.json")  # reads the trace by itself
    assert made.steps_from == "trace"
    assert [step.start - START for step in made.steps] == pytest.approx([0.5, 1.25], abs=1e-5)
    timeline = json.loads((tmp_path / "all.json").read_text())
    check(timeline["traceEvents"])
    assert "by its own time of day" in timeline["otherData"]["notes"][-1]
    loaded = Profile.load(made.save(tmp_path / "profile.json"))
    assert loaded.steps == made.steps
    assert loaded.trace is None
    assert len(loaded.load_trace().steps) == 2


def test_a_trace_of_an_unknown_moment_is_put_at_the_begin(tmp_path: Path) -> None:
    path = kineto(tmp_path / "1-TP-0.trace.json", [spanned("aten::mm", 40, 1)], base=None)
    made = profile(request("a", 1, 2, 3))
    made.load_trace(path)
    (operator,) = slices(written(made, tmp_path / "all.json"), "cpu_op")
    assert operator["ts"] == 0
    assert any("put at the begin of the profile" in note for note in made.notes)


def test_slices_across_each_other_get_tracks_of_their_own(tmp_path: Path) -> None:
    events = [
        spanned("outer", 1, 4),
        spanned("inner", 2, 1),
        spanned("across", 3, 4),
        spanned("beside", 3, 4, thread=2),
        spanned("after", 8, 1),
    ]
    made = profile(request("a", 0, 9))
    made.load_trace(kineto(tmp_path / "1-TP-0.trace.json", events))
    found = slices(written(made, tmp_path / "all.json"), "cpu_op")  # checks the overlaps
    tracks = {event["name"]: event["tid"] for event in found}
    assert tracks["outer"] == tracks["inner"] == tracks["after"]
    assert len({tracks["outer"], tracks["across"], tracks["beside"]}) == 3


def test_several_ranks(tmp_path: Path) -> None:
    events = [stepped("EXTEND bs=1 toks=10", 1.5, 0.5), spanned("aten::mm", 1.6, 0.1)]
    paths = [kineto(tmp_path / f"1-TP-{rank}.trace.json", events) for rank in range(2)]
    made = traced(steps=[])
    made.load_trace(paths)
    assert len(made.steps) == 1
    assert "The steps are those of rank TP0, of 2 ranks." in made.notes
    timeline = written(made, tmp_path / "all.json")
    assert processes(timeline)[-2:] == ["trace TP0", "trace TP1"]
    assert len({event["pid"] for event in slices(timeline, "cpu_op")}) == 2


@pytest.mark.parametrize(
    ("files", "words"),
    [([], "has no trace\nRecord it with trace=True"), (["/nowhere/1-TP-0.trace.json.gz"], "Copy them")],
)
def test_traces_that_are_not_here(files: list[str], words: str) -> None:
    with pytest.raises(errors.TraceError, match=words):
        traced(trace_files=files).load_trace()
