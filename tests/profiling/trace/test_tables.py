"""The tables of a trace for pandas."""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.kineto import BASE, kernel, kineto, launch, slice_, step

from nbruntime import read_trace
from nbruntime.errors import ArgumentValueError, MissingPackageError
from nbruntime.profiling.trace import Trace


class Frame:
    """What pandas makes a table of, as far as it matters here."""

    def __init__(self, rows: list[tuple[Any, ...]], columns: list[str]) -> None:
        self.rows, self.columns = rows, columns


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    path = tmp_path / "run-TP-0.trace.json"
    events = [
        step("DECODE bs=2", 0, 50),
        slice_("aten::mm", 5, 10),
        launch(10, 5, 1),
        kernel("gemm", 100, 20, 1),
    ]
    path.write_text(kineto(events))
    return read_trace(path)


def test_every_table(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=Frame))
    assert trace.to_frame().rows == [("aten::mm", "gemm", 1, 10e-6, pytest.approx(5e-6))]
    assert trace.to_frame().columns == ["name", "kind", "calls", "total", "self_time"]
    assert trace.to_frame("kernels").rows == [("gemm", "gemm", 1, 20e-6)]
    (row,) = trace.to_frame("steps").rows
    assert row == ("TP0", "DECODE", pytest.approx(BASE / 1e9 + 100e-6), 20e-6, 2, 2)
    events = trace.to_frame("events")
    assert events.columns[-3:] == ["start", "duration", "step"]
    assert [row[:5] + row[-2:] for row in events.rows] == [
        ("step[DECODE bs=2]", "user_annotation", "TP0", 100, 100, 50e-6, 0),
        ("aten::mm", "cpu_op", "TP0", 100, 100, 10e-6, 0),
        ("cudaLaunchKernel", "cuda_runtime", "TP0", 100, 100, 5e-6, 0),
        ("gemm", "kernel", "TP0", 0, 7, 20e-6, 0),
    ]


def test_wrong_names_and_no_pandas(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentValueError, match="no table 'kernel'") as caught:
        trace.to_frame("kernel")  # type: ignore[arg-type]
    assert "Did you mean 'kernels'?" in str(caught.value)
    monkeypatch.setitem(sys.modules, "pandas", None)  # as if it were not installed
    with pytest.raises(MissingPackageError, match="Or use the trace's own operators"):
        trace.to_frame()


def test_traces_pickle_and_copy(trace: Trace) -> None:
    for other in (pickle.loads(pickle.dumps(trace)), copy.deepcopy(trace)):
        assert other.operators() == trace.operators()
        assert other.steps == trace.steps
        assert repr(other) == repr(trace)
