"""Traces that are cut off, damaged or no traces: what can be read is read, and a note says what cannot."""

from __future__ import annotations

import gzip
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.kineto import kineto, slice_, step

from nbruntime import read_trace
from nbruntime.errors import NbruntimeError, TraceError
from nbruntime.profiling.trace import Trace, files, recording

EVENTS = [step("DECODE bs=1", 0, 100)] + [slice_(f"aten::op{n}", 1 + n, 0.5) for n in range(80)]
TEXT = kineto(EVENTS)


def trace_of(folder: Path, text: str | bytes, name: str = "run-TP-0.trace.json") -> Trace:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_trace(path)


def damaged(text: str, name: str, new: str) -> bytes:
    """Put text of any kind into the name of an event."""
    assert f'"{name}"' in text
    return text.replace(f'"{name}"', f'"{new}"').encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("share", [0.4, 0.6, 0.9, 0.98])
def test_a_file_that_is_cut_off_is_read_up_to_there(tmp_path: Path, share: float, packed: bool) -> None:
    data = TEXT.encode()
    data = gzip.compress(data) if packed else data
    trace = trace_of(tmp_path, data[: int(len(data) * share)])
    print(trace.notes)
    assert 1 <= len(trace.events) <= len(EVENTS)
    assert trace.names == [event["name"] for event in EVENTS[: len(trace.events)]]
    expected = "compressed data end too early" if packed else "ends in the middle of the events"
    assert trace.notes[0] == f"run-TP-0.trace.json: {trace.notes[0].partition(': ')[2]}"
    assert expected in trace.notes[0]
    assert all("could not be read" not in note for note in trace.notes)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, len(TEXT) - 1))
def test_every_beginning_is_read_or_refused(tmp_path: Path, at: int) -> None:
    try:
        trace = trace_of(tmp_path, TEXT[:at])
    except TraceError:
        assert at < TEXT.index("traceEvents") + 16
    else:
        assert trace.names == [event["name"] for event in EVENTS[: len(trace.events)]]
        assert trace.notes or at > len(TEXT) - 40


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, len(TEXT) - 1), new=st.binary(max_size=3))
def test_a_damaged_place_costs_few_events(tmp_path: Path, at: int, new: bytes) -> None:
    data = TEXT.encode()
    try:
        trace = trace_of(tmp_path, data[:at] + new + data[at + 1 :])
    except TraceError:
        assert at < TEXT.index("traceEvents") + 16
    else:
        # An early end of the array looks like the end of the trace.
        assert len(trace.events) >= len(EVENTS) - 3 or b"]" in new
        assert len(trace.events) <= len(EVENTS) + 1


@pytest.mark.parametrize(
    ("new", "read_as"),
    [
        ("line\nand\ttab\x00\x1f", "line and tab  "),
        ("latin \udce9", "latin \ufffd"),
        ("C:\\Users\\x", "C:\\Users\\x"),
    ],
    ids=["control characters", "not UTF-8", "wrong escape"],
)
def test_names_that_are_not_json_are_repaired(tmp_path: Path, new: str, read_as: str) -> None:
    trace = trace_of(tmp_path, damaged(TEXT, "aten::op3", new))
    assert trace.notes == []
    assert trace.names[4] == read_as
    assert len(trace.events) == len(EVENTS)


@pytest.mark.parametrize("new", ['a "quoted" name', 'one" quote', "ends with \\"])
def test_an_event_that_cannot_be_repaired_is_left_out(tmp_path: Path, new: str) -> None:
    trace = trace_of(tmp_path, damaged(TEXT, "aten::op3", new))
    names = [event["name"] for event in EVENTS if event["name"] != "aten::op3"]
    assert trace.names == names
    assert trace.notes == ["run-TP-0.trace.json: 1 event could not be read."]


@pytest.mark.parametrize("value", ["NaN", "nan", "-Infinity", "inf"])
def test_values_that_are_no_numbers(tmp_path: Path, value: str) -> None:
    text = kineto([*EVENTS, slice_("odd", 90, 5, occupancy=1.25)])
    trace = trace_of(tmp_path, text.replace("1.25", value))
    assert (trace.names[-1], trace.notes) == ("odd", [])
    trace = trace_of(tmp_path, text.replace('"dur": 5\n', f'"dur": {value}\n'))
    assert "odd" not in trace.names
    assert trace.notes == ["run-TP-0.trace.json: 1 event could not be read."]


def test_durations_and_times_that_cannot_be(tmp_path: Path) -> None:
    odd = [slice_("negative", 5, -3), slice_("late", 1e300, 1), slice_("long", 1, 1e17)]
    trace = trace_of(tmp_path, kineto([*EVENTS, *odd]))
    assert [row.total for row in trace.operators() if row.name == "negative"] == [0]
    assert trace.notes == [
        "run-TP-0.trace.json: 2 events without a possible time were left out.",
        "run-TP-0.trace.json: 1 event of negative duration were taken as 0.",
    ]


def test_numbers_of_any_size_and_kind(tmp_path: Path) -> None:
    odd: list[dict[str, Any]] = [
        slice_("large", 1, 1, correlation=2**70),
        slice_("text", 2, 1, correlation="12"),
        slice_("stream", 3, 1, stream="default"),
        slice_("no args", 4, 1) | {"args": None},
        slice_("times in quotes", 5, 1) | {"ts": "5.25"},
        {"ph": "X", "name": "bare", "ts": 6},
        {"ph": "X", "name": 7, "ts": 6},
    ]
    trace = trace_of(tmp_path, kineto([*EVENTS, *odd]))
    assert {"text", "no args", "times in quotes", "bare"} <= set(trace.names)
    assert trace.notes == ["run-TP-0.trace.json: 3 events could not be read."]


def test_an_empty_trace_and_one_without_steps(tmp_path: Path) -> None:
    empty = trace_of(tmp_path, kineto([]))
    assert empty.notes == ["run-TP-0.trace.json: it holds no events."]
    assert (len(empty.events), empty.duration, empty.steps, empty.operators()) == (0, 0.0, [], [])
    assert (empty.busy().share, empty.idle_gaps()[0].tolist()) == (0.0, [])
    assert repr(empty).startswith("Trace run-TP-0.trace.json")
    stepless = trace_of(tmp_path, kineto(EVENTS[1:]))
    assert stepless.notes == ["The trace has no steps: the server names none in it."]
    assert set(stepless.step_of.tolist()) == {-1}


def test_events_that_mark_a_begin_or_an_end_are_counted(tmp_path: Path) -> None:
    pair = [{"ph": phase, "name": "x", "pid": 1, "tid": 1, "ts": 1} for phase in "BE"]
    trace = trace_of(tmp_path, kineto([*EVENTS, *pair]))
    assert trace.notes == ["run-TP-0.trace.json: 2 events that mark only a begin or an end were left out."]


NO_TRACES = {
    "empty": (b"", "The file is empty"),
    "empty gzip": (gzip.compress(b""), "The file is empty"),
    "binary": (b"\x80\x04\x95memory snapshot", "The file is not JSON"),
    "page": (b"<html><body>404</body></html>", "The file is not JSON"),
    "JSON": (b'{"model": "x", "events": [{"ph": "X"}]}', "not a trace: it has no traceEvents"),
    "JSON array": (b'[{"id": 1}, {"id": 2}]', "holds no events of a trace"),
    "numbers": (b"[1, 2, 3]", "holds no events of a trace"),
    "other events": (b'{"traceEvents": [{"type": "click"}]}', "holds no events of a trace"),
    "only a head": (b'{"schemaVersion": 1, "baseTime', "ends before its first event"),
}


@pytest.mark.parametrize("kind", NO_TRACES)
def test_files_that_are_no_traces(tmp_path: Path, kind: str) -> None:
    data, message = NO_TRACES[kind]
    with pytest.raises(TraceError, match=message) as caught:
        trace_of(tmp_path, data)
    print(caught.value)
    first, second = str(caught.value).splitlines()
    assert str(tmp_path / "run-TP-0.trace.json") in first
    assert second.startswith("Give the .trace.json")
    assert isinstance(caught.value, NbruntimeError)


def test_paths_that_lead_to_no_trace(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="does not exist"):
        read_trace(tmp_path / "none.json")
    with pytest.raises(TraceError, match="The folder has no traces"):
        read_trace(tmp_path)
    with pytest.raises(TraceError, match="No file was given"):
        read_trace([])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "9-TP-0.trace.json").write_text(TEXT)
    with pytest.raises(TraceError, match="Its folder 'run' has traces"):
        read_trace(tmp_path)
    locked = tmp_path / "loop.trace.json"
    locked.symlink_to(locked)
    with pytest.raises(TraceError):
        read_trace(locked)


def test_one_bad_file_among_several_is_noted(tmp_path: Path) -> None:
    good, bad = tmp_path / "9-TP-0.trace.json", tmp_path / "9-TP-1.trace.json"
    good.write_text(TEXT)
    bad.write_bytes(b"\x80")
    trace = read_trace([good, bad])
    assert (trace.ranks, trace.paths) == (["TP0"], [good])
    assert re.match(r"9-TP-1\.trace\.json: The file is not JSON", trace.notes[0])


def test_ranks_that_are_missing_or_there_twice(tmp_path: Path) -> None:
    for rank in (0, 2):
        (tmp_path / f"9-TP-{rank}.trace.json").write_text(TEXT)
    assert read_trace(tmp_path).notes == ["Traces of ranks are missing: TP1."]
    head = {"distributedInfo": {"backend": "nccl", "rank": 0, "world_size": 4}}
    trace = trace_of(tmp_path, kineto(EVENTS, head | {"baseTimeNanoseconds": 1}), "8-TP-0.trace.json")
    assert trace.notes == ["The server has 4 ranks; the trace has 1 of them: TP0."]
    copy = tmp_path / "copy-TP-0.trace.json"
    shutil.copy(tmp_path / "9-TP-0.trace.json", copy)
    twice = read_trace([tmp_path / "9-TP-0.trace.json", copy])
    assert twice.ranks == ["TP0", "TP0 (2)"]
    assert "rank TP0 is there twice at the same time" in twice.notes[0]
    same = read_trace([copy, copy])
    assert (len(same.paths), same.notes) == (1, ["A file that was given twice was read once."])


def test_damaged_compressed_data(tmp_path: Path) -> None:

    random.seed(1)
    events = [slice_(f"op{random.random()}", n, 0.5) for n in range(5_000)]
    data = bytearray(gzip.compress(kineto([EVENTS[0], *events]).encode()))
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    trace = trace_of(tmp_path, bytes(data))
    assert 1_000 < len(trace.events) < 4_000
    assert any("compressed data are damaged" in note for note in trace.notes), trace.notes
    # Several members, and padding behind them, are one file.
    parts = [gzip.compress(part.encode()) for part in (TEXT[:3000], TEXT[3000:])]
    assert len(trace_of(tmp_path, b"".join(parts) + bytes(512)).events) == len(EVENTS)


def test_what_unpacks_without_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_EXPANSION_ALLOWED", 1 << 20)
    bomb = gzip.compress((TEXT[:-40] + " " * 30_000_000).encode())
    trace = trace_of(tmp_path, bomb)
    assert len(trace.events) >= len(EVENTS) - 2
    assert "unpacks to more than" in trace.notes[0]


def test_a_trace_of_too_many_events_is_read_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MOST_EVENTS", 10_000)
    trace = trace_of(tmp_path, kineto(EVENTS[1:] * 300))
    assert 10_000 <= len(trace.events) < 20_000
    assert "it has more" in trace.notes[0]


def test_a_name_without_an_end_costs_the_rest_only(tmp_path: Path) -> None:
    trace = trace_of(tmp_path, TEXT[: TEXT.index("aten::op70")] + "x" * 9_000_000)
    assert trace.names[-1] == "aten::op69"
    assert "ends in the middle of the events" in trace.notes[0]


def test_the_shortest_traces(tmp_path: Path) -> None:
    for text in ("[]", "[", '{"traceEvents":[]}', '{"traceEvents":[', " [ ] "):
        trace = trace_of(tmp_path, text)
        assert (len(trace.events), trace.notes[-1]) == (0, "run-TP-0.trace.json: it holds no events.")
