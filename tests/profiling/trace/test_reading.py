"""The ways in which a trace may be written."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.kineto import BASE, kernel, kineto, launch, memory, merged, slice_, step

from nbruntime import read_trace
from nbruntime.profiling.trace import Trace
from nbruntime.profiling.trace.chunks import TraceText
from nbruntime.profiling.trace.columns import FileColumns, FilePart, Numbering, join, nanoseconds

EVENTS = [
    step("EXTEND bs=1 toks=7", 5100039519173.722, 5899.645),
    slice_("aten::odd },{ \"quoted\" \\ name, [ { ]", 5100039519180.001, 10.5, **{"Input Dims": [[1], []]}),
    slice_("aten::nested", 5100039519191.0, 3, callees=[{"name": "a},{b", "of": [{}, {"x": []}]}, {"n": 1}]),
    slice_("Zeile 1\nZeile 2 ü 世界 \u2028", 5100039519195.5, 0.001),
    launch(5100039519200.25, 2, 1),
    kernel("void kernel<int, {lambda()#1}>(int)", 5100039519210, 20, 1),
    slice_("x.py(3): f", 5100039519210, 4, cat="python_function", **{"Python id": 3}),
    memory(5100039519220.5, 64, 64),
    {"ph": "M", "name": "process_name", "pid": 100, "tid": 0, "ts": 5100039519173.0, "args": {"name": "py"}},
    {"ph": "s", "id": 1, "pid": 100, "tid": 100, "ts": 5100039519200.25, "cat": "ac2g", "name": "ac2g"},
    {"ph": "i", "s": "g", "name": "Record Window End", "pid": "", "tid": "", "ts": 5100039519999.5},
]  # fmt: skip

LAYOUTS = {
    "kineto": kineto(EVENTS),
    "one line": json.dumps({"baseTimeNanoseconds": BASE, "traceEvents": EVENTS}, separators=(",", ":")),
    "indented": json.dumps({"baseTimeNanoseconds": BASE, "traceEvents": EVENTS}, indent=4),
    "not ASCII": json.dumps({"baseTimeNanoseconds": BASE, "traceEvents": EVENTS}, ensure_ascii=False),
    "base behind the events": json.dumps({"traceEvents": EVENTS, "a": [{}, {}], "baseTimeNanoseconds": BASE}),
    "fields sorted": json.dumps({"baseTimeNanoseconds": BASE, "traceEvents": EVENTS}, sort_keys=True),
    "byte order mark": "\ufeff" + kineto(EVENTS),
    "trailing comma": kineto(EVENTS).replace("\n  ],", "\n  ,],"),
}


def columns_of(text: str, cuts: Iterator[int] | None = None, chunk: int = 64) -> dict[str, Any]:
    """Read a text cut into blocks of some lengths."""
    data = text.encode()
    blocks = []
    while data:
        length = next(cuts) if cuts else len(data)
        blocks.append(data[:length])
        data = data[length:]
    whole = TraceText(blocks, chunk=chunk)
    names, categories = Numbering(), Numbering()
    columns = FileColumns(names, categories)
    for batch in whole.batches():
        columns.add(batch)
    assert (whole.unreadable, whole.cut_off) == (0, False)
    events = join([FilePart(columns, [0] * len(columns.threads), whole.head.base or 0)], names, categories)
    values = {name: value.tolist() for name, value in vars(events).items() if isinstance(value, np.ndarray)}
    return values | {"names": events.names, "threads": events.threads, "memory": columns.memory}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same(layout: str) -> None:
    found = columns_of(LAYOUTS[layout])
    assert found == columns_of(LAYOUTS["kineto"])
    assert found["names"] == [event["name"] for event in EVENTS[:6]]
    assert found["start"][0] == BASE + 5100039519173722
    assert found["duration"] == [5899645, 10500, 3000, 1, 2000, 20000]
    assert found["correlation"] == [-1, -1, -1, -1, 1, 1]
    assert found["stream"] == [-1, -1, -1, -1, -1, 7]


@given(
    layout=st.sampled_from([*LAYOUTS]),
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=20),
    chunk=st.sampled_from([1, 2, 50, 200, 1000, 10_000]),
)
def test_no_cut_changes_what_is_read(layout: str, lengths: list[int], chunk: int) -> None:
    def repeated() -> Iterator[int]:
        while True:
            yield from lengths

    assert columns_of(LAYOUTS[layout], repeated(), chunk) == columns_of(LAYOUTS[layout])


@given(st.integers(0, 2**42 * 1000))
def test_times_are_exact_to_the_nanosecond(ns: int) -> None:
    written = float(f"{ns // 1000}.{ns % 1000:03d}")
    assert nanoseconds(np.array([written])).tolist() == [ns]


def test_an_array_without_a_head(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    for text in (json.dumps(EVENTS), json.dumps(EVENTS)[:-1], json.dumps(EVENTS)[:-1] + ","):
        path.write_text(text)
        trace = read_trace(path)
        assert len(trace.events) == 6
        assert trace.notes == [
            "trace.json: it does not say the time of day; its times begin at an unknown moment."
        ]


def test_times_since_1970_need_no_base(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"traceEvents": [step("DECODE bs=1", 1718000000123456, 10)]}))
    trace = read_trace(path)
    assert trace.steps[0].start == pytest.approx(1718000000.123456, abs=1e-6)
    assert trace.notes == []


def test_names_of_categories_before_torch_1_13(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    events = [slice_("aten::mm", 1, 5, cat="Operator"), kernel("gemm", 9, 3, 1, cat="Kernel")]
    path.write_text(kineto(events))
    trace = read_trace(path)
    assert [row.name for row in trace.operators()] == ["aten::mm"]
    assert [row.name for row in trace.kernels()] == ["gemm"]


def write(folder: Path, name: str, events: list[dict[str, Any]], head: dict[str, Any] | None = None) -> Path:
    path = folder / name
    text = kineto(events, head)
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def decode(at: float) -> list[dict[str, Any]]:
    return [step("DECODE bs=1", at, 10), slice_("aten::mm", at + 1, 5)]


def test_ranks_by_the_names_of_files(tmp_path: Path) -> None:
    for rank in (0, 1):
        write(tmp_path, f"9.5-TP-{rank}-DP-1.trace.json.gz", decode(rank * 3))
    trace = read_trace(tmp_path)
    assert trace.ranks == ["TP0-DP1", "TP1-DP1"]
    assert [len(trace.steps_of(rank)) for rank in trace.ranks] == [1, 1]
    assert trace.steps_of("TP1-DP1")[0].start > trace.steps_of("TP0-DP1")[0].start
    assert trace.busy().busy == pytest.approx(10e-6)
    assert trace.busy("TP0-DP1").busy == pytest.approx(5e-6)
    # An event belongs to the step of its own rank, although the steps overlap.
    assert trace.step_of.tolist() == [0, 0, 1, 1]
    assert trace.notes == []


def test_ranks_by_the_labels_of_a_merged_trace(tmp_path: Path) -> None:
    path = tmp_path / "merged-9.5.trace.json"
    path.write_text(merged({"[TP00-DP01]": decode(0), "[TP01-DP01]": decode(3)}))
    trace = read_trace(path)
    assert trace.ranks == ["TP0-DP1", "TP1-DP1"]
    assert trace.step_of.tolist() == [0, 0, 1, 1]
    assert trace.steps[0].start == pytest.approx(BASE / 1e9)
    # It repeats the files of the ranks, which are taken where both are there.
    write(tmp_path, "9.5-TP-0-DP-1.trace.json", decode(0))
    assert read_trace(tmp_path).paths == [tmp_path / "9.5-TP-0-DP-1.trace.json"]


def test_stages_in_files_of_their_own_are_one_rank(tmp_path: Path) -> None:
    write(tmp_path, "p-9.5-TP-0-EXTEND.trace.json.gz", [step("EXTEND bs=1 toks=4", 0, 10)])
    write(tmp_path, "p-9.5-TP-0-DECODE.trace.json.gz", decode(20))
    trace = read_trace(tmp_path)
    assert (trace.ranks, trace.notes) == (["TP0"], [])
    assert [step.stage for step in trace.steps] == ["EXTEND", "DECODE"]


def test_the_name_says_the_stage_where_no_steps_are(tmp_path: Path) -> None:
    write(tmp_path, "9.5-TP-0-prefill.trace.json.gz", [slice_("aten::mm", 5, 10), slice_("aten::mm", 25, 10)])
    trace = read_trace(tmp_path)
    (step,) = trace.steps
    assert (step.stage, step.batch_size, step.duration) == ("EXTEND", 0, pytest.approx(30e-6))
    assert trace.step_of.tolist() == [0, 0]
    assert "has no steps; it counts as one stretch of EXTEND" in trace.notes[0]


def test_a_folder_gives_its_newest_recording(tmp_path: Path) -> None:

    old = write(tmp_path, "1.5-TP-0.trace.json.gz", decode(0))
    os.utime(old, (1, 1))
    new = write(tmp_path, "2.5-TP-0.trace.json.gz", decode(0))
    (tmp_path / "server_args.json").write_text("{}")
    trace = read_trace(str(tmp_path))
    assert trace.paths == [new]
    assert "1 more traces, of other recordings" in trace.notes[0]


def test_progress_is_reported(tmp_path: Path) -> None:
    paths = [write(tmp_path, f"9.5-TP-{rank}.trace.json", decode(0) * 3000) for rank in (0, 1)]
    calls: list[tuple[int, int]] = []
    read_trace(paths, progress=lambda done, total: calls.append((done, total)))
    total = sum(path.stat().st_size for path in paths)
    assert calls[-1] == (total, total)
    assert calls == sorted(calls)
    assert len(calls) > 4


def test_a_trace_reads_as_numpy_columns(tmp_path: Path) -> None:
    trace: Trace = read_trace(write(tmp_path, "9.5-TP-0.trace.json", decode(0)))
    assert trace.names == ["step[DECODE bs=1]", "aten::mm"]
    assert trace.events.end.tolist() == [BASE + 10000, BASE + 6000]
    assert trace.events.of("cpu_op").tolist() == [False, True]
