"""Operators of a trace against torch's own table of the same run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from nbruntime import read_trace


def test_calls_and_times_equal_those_of_torch(tmp_path: Path) -> None:
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    # Without stacks: torch now and then gives a frame of Python a name that its own table cannot decode.
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True, profile_memory=True) as recorded:
        values = torch.randn(2, 8, 16)
        for _ in range(3):
            with record_function("step[DECODE bs=2]"), torch.inference_mode():
                values = layer(values)
            values.softmax(-1).topk(3)
    path = tmp_path / "trace.json"
    recorded.export_chrome_trace(str(path))
    trace = read_trace(path)
    assert trace.notes == []
    assert [(step.stage, step.batch_size) for step in trace.steps] == [("DECODE", 2)] * 3

    operators = {row.name: row for row in trace.operators()}
    table = {row.key: row for row in recorded.key_averages() if row.key.startswith("aten::")}
    assert len(table) > 15
    assert operators.keys() == table.keys()
    for name, row in table.items():
        found = operators[name]
        assert found.calls == row.count, name
        assert found.total * 1e6 == pytest.approx(row.cpu_time_total, rel=0.01), name
        assert found.self_time * 1e6 == pytest.approx(row.self_cpu_time_total, rel=0.01, abs=0.01), name
    _, allocated = trace.memory()
    assert len(allocated) > 10
    assert allocated.max() > 2 * 8 * 16 * 4
