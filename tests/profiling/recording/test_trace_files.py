"""Finding the files of a server's profiler, by SGLang's names and once they are complete."""

from __future__ import annotations

import gzip
import os
import threading
from pathlib import Path

import pytest

from nbruntime.profiling.recording.trace_files import find_traces

TRACE = b'{"traceEvents": []}'


def write(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).write_bytes(gzip.compress(TRACE) if name.endswith(".gz") else TRACE)
    return sorted(str(folder / name) for name in names)


def test_names_of_ranks_stages_and_merged_traces(tmp_path: Path) -> None:
    mine = write(
        tmp_path,
        "17.5-TP-0.trace.json.gz",
        "17.5-TP-1-DP-1-PP-0-EP-3.trace.json.gz",
        "long-prefix-17.5-TP-0-EXTEND.trace.json.gz",
        "merged-17.5.trace.json.gz",
        "17.5-TP-0-DECODE.trace.json",
    )
    write(tmp_path, "18.5-TP-0.trace.json.gz")
    (tmp_path / "17.5-TP-0-memory.pickle").write_bytes(b"")
    assert find_traces(str(tmp_path), "17.5", since=0.0, ranks=2, merged=True) == mine
    assert find_traces(str(tmp_path / "nowhere"), "17.5", since=0.0) == []


def test_older_files_of_the_same_name_are_left_out(tmp_path: Path) -> None:
    old, new = write(tmp_path, "id-TP-0.trace.json.gz", "id-TP-1.trace.json.gz")
    os.utime(old, (100.0, 100.0))
    os.utime(new, (1000.0, 1000.0))
    assert find_traces(str(tmp_path), "id", since=900.0) == [new]


@pytest.mark.parametrize("written", [0, -6], ids=["nothing", "not all"])
def test_waits_for_a_file_that_is_being_written(tmp_path: Path, written: int) -> None:
    (whole,) = write(tmp_path, "id-TP-0.trace.json.gz")
    data = Path(whole).read_bytes()
    Path(whole).write_bytes(data[:written])
    completing = threading.Event()

    def complete() -> None:
        (tmp_path / "other").write_bytes(data)
        completing.set()
        (tmp_path / "other").replace(whole)

    timer = threading.Timer(0.7, complete)
    timer.start()
    assert find_traces(str(tmp_path), "id", since=0.0) == [whole]
    assert completing.is_set()
    assert Path(whole).read_bytes() == data
    timer.join()
