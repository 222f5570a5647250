"""Figures of small traces, counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.kineto import BASE, kernel, kineto, launch, memory, slice_, step

from nbruntime import read_trace
from nbruntime.errors import ArgumentValueError
from nbruntime.profiling.trace import KernelRow, OperatorRow, Trace

MICRO = 1e-6


def trace_of(folder: Path, events: list[dict[str, Any]], name: str = "run-TP-0.trace.json") -> Trace:
    path = folder / name
    path.write_text(kineto(events))
    return read_trace(path)


@pytest.fixture
def cpu(tmp_path: Path) -> Trace:
    """Two steps; inside of the first linear (100 µs) > addmm (80) > copy_ (10), and mul on another thread."""
    return trace_of(
        tmp_path,
        [
            step("EXTEND bs=3 toks=512", 1000, 300),
            slice_("aten::linear", 1010, 100),
            slice_("aten::addmm", 1020, 80),
            slice_("aten::copy_", 1030, 10),
            slice_("aten::copy_", 1040, 5),
            slice_("aten::mul", 1050, 200, tid=101),
            step("DECODE bs=3", 1400, 100),
            slice_("aten::linear", 1410.5, 20.25),
            slice_("model.py(1): forward", 1410, 90, cat="python_function"),
            slice_("aten::add", 1600, 50),
            memory(1015, 2048, 2048),
            memory(1035, 4096, 6144),
            memory(1500, -2048, 4096),
        ],
    )


def test_operators_have_calls_totals_and_their_own_time(cpu: Trace) -> None:
    rows = {row.name: row for row in cpu.operators()}
    expected = [
        OperatorRow("aten::mul", "norm and elementwise", 1, 200 * MICRO, 200 * MICRO),
        OperatorRow("aten::addmm", "gemm", 1, 80 * MICRO, 65 * MICRO),
        OperatorRow("aten::add", "norm and elementwise", 1, 50 * MICRO, 50 * MICRO),
        OperatorRow("aten::linear", "gemm", 2, 120.25 * MICRO, 40.25 * MICRO),
        OperatorRow("aten::copy_", "copies", 2, 15 * MICRO, 15 * MICRO),
    ]
    assert list(rows) == [row.name for row in expected]
    for row in expected:
        found = rows[row.name]
        assert (found.kind, found.calls) == (row.kind, row.calls)
        assert (found.total, found.self_time) == pytest.approx((row.total, row.self_time))
    assert [row.name for row in cpu.operators(top=2)] == ["aten::mul", "aten::addmm"]
    assert cpu.kernels() == []


def test_steps_and_what_belongs_to_them(cpu: Trace) -> None:
    first, second = cpu.steps
    assert (first.stage, first.batch_size, first.tokens) == ("EXTEND", 3, 512)
    assert (second.stage, second.batch_size, second.tokens) == ("DECODE", 3, 3)
    assert first.start == pytest.approx(BASE / 1e9 + 1000 * MICRO, abs=1e-6)
    assert (first.duration, second.duration) == pytest.approx((300 * MICRO, 100 * MICRO))
    names = np.array(cpu.names)[cpu.events.name]
    assert {name: set(cpu.step_of[names == name].tolist()) for name in set(names)} == {
        "step[EXTEND bs=3 toks=512]": {0},
        "step[DECODE bs=3]": {1},
        "aten::linear": {0, 1},
        "aten::addmm": {0},
        "aten::copy_": {0},
        "aten::mul": {0},
        "aten::add": {-1},
    }
    assert cpu.steps_of("TP0") == cpu.steps
    with pytest.raises(ArgumentValueError, match="no rank 'TP1'"):
        cpu.steps_of("TP1")


def test_busy_time_is_a_union_and_gaps_are_between(cpu: Trace) -> None:
    busy = cpu.busy()  # 1010-1250 on two threads, 1410.5-1430.75, 1600-1650
    assert busy.busy == pytest.approx((240 + 20.25 + 50) * MICRO)
    assert busy.span == pytest.approx(640 * MICRO)
    assert busy.share == pytest.approx(310.25 / 640)
    begin = BASE / 1e9
    assert busy.intervals - begin == pytest.approx(
        np.array([[1010, 1250], [1410.5, 1430.75], [1600, 1650]]) * MICRO, abs=1e-6
    )
    starts, durations = cpu.idle_gaps()
    assert starts - begin == pytest.approx(np.array([1250, 1430.75]) * MICRO, abs=1e-6)
    assert durations == pytest.approx(np.array([160.5, 169.25]) * MICRO)
    assert not cpu.on_gpu
    assert cpu.duration == pytest.approx(650 * MICRO)
    assert cpu.launch_delays().tolist() == []


def test_classes_add_up_to_the_operators_own_time(cpu: Trace) -> None:
    classes = cpu.classes()
    assert classes["gemm"] == pytest.approx(105.25 * MICRO)
    assert classes["copies"] == pytest.approx(15 * MICRO)
    assert sum(classes.values()) == pytest.approx(sum(row.self_time for row in cpu.operators()))


def test_memory_over_time(cpu: Trace) -> None:
    times, sizes = cpu.memory()
    assert sizes.tolist() == [2048, 6144, 4096]
    assert times - BASE / 1e9 == pytest.approx(np.array([1015, 1035, 1500]) * MICRO, abs=1e-6)


def test_memory_of_the_device_comes_first_and_is_added_up_where_totals_are_missing(tmp_path: Path) -> None:
    trace = trace_of(tmp_path, [memory(1, 10, 10), memory(2, 500, -1, 1), memory(3, -200, -1, 1)])
    assert trace.memory()[1].tolist() == [500, 300]


@pytest.fixture
def gpu(tmp_path: Path) -> Trace:
    """Two steps whose kernels run after the CPU has gone on, on two streams that overlap.

    Stream 7: gemm 1100-1200, attention 1200-1260, of the decode step gemm 1500-1540. Stream 9: all-reduce
    1150-1230. Then a copy 1600-1610 that no step launched.
    """
    return trace_of(
        tmp_path,
        [
            step("EXTEND bs=2 toks=64", 1000, 60),
            slice_("aten::linear", 1005, 30),
            launch(1010, 5, 1),
            launch(1020, 5, 2),
            launch(1040, 5, 3),
            step("DECODE bs=2", 1070, 30),
            launch(1080, 4, 4),
            launch(1400, 10, 5),
            kernel("nvjet_tst_64x8", 1100, 100, 1),
            kernel("flash_fwd_kernel", 1200, 60, 2),
            kernel("ncclDevKernel_AllReduce_Sum_bf16_RING_LL", 1150, 80, 3, stream=9),
            kernel("nvjet_tst_64x8", 1500, 40, 4),
            kernel("Memcpy DtoH (Device -> Pinned)", 1600, 10, 5, cat="gpu_memcpy"),
            step("EXTEND bs=2 toks=64", 1100, 160, pid=0, tid=7) | {"cat": "gpu_user_annotation"},
        ],
    )


def test_kernels_and_their_classes(gpu: Trace) -> None:
    assert gpu.on_gpu
    assert gpu.kernels() == [
        KernelRow("nvjet_tst_64x8", "gemm", 2, pytest.approx(140 * MICRO)),
        KernelRow("ncclDevKernel_AllReduce_Sum_bf16_RING_LL", "communication", 1, pytest.approx(80 * MICRO)),
        KernelRow("flash_fwd_kernel", "attention", 1, pytest.approx(60 * MICRO)),
        KernelRow("Memcpy DtoH (Device -> Pinned)", "copies", 1, pytest.approx(10 * MICRO)),
    ]
    assert gpu.classes() == {
        "gemm": pytest.approx(140 * MICRO),
        "attention": pytest.approx(60 * MICRO),
        "norm and elementwise": 0.0,
        "communication": pytest.approx(80 * MICRO),
        "sampling": 0.0,
        "copies": pytest.approx(10 * MICRO),
        "other": 0.0,
    }


def test_kernels_belong_to_the_step_that_launched_them(gpu: Trace) -> None:
    events = gpu.events
    step_of = {int(c): int(gpu.step_of[n]) for n, c in enumerate(events.correlation) if events.stream[n] > 0}
    assert step_of == {1: 0, 2: 0, 3: 0, 4: 1, 5: -1}
    # A step lasts as long as its kernels, and there is one for a span of the CPU and its copy on the device.
    assert [(step.stage, step.duration) for step in gpu.steps] == [
        ("EXTEND", pytest.approx(160 * MICRO)),
        ("DECODE", pytest.approx(40 * MICRO)),
    ]
    assert gpu.steps[1].start - gpu.steps[0].start == pytest.approx(400 * MICRO, abs=1e-6)


def test_the_device_is_busy_once_where_streams_overlap(gpu: Trace) -> None:
    busy = gpu.busy()
    assert (busy.busy, busy.span) == pytest.approx(((160 + 40 + 10) * MICRO, 510 * MICRO))
    assert gpu.idle_gaps()[1] == pytest.approx(np.array([240, 60]) * MICRO)


def test_launch_delays_are_from_the_end_of_the_launch(gpu: Trace) -> None:
    # 1015 -> 1100, 1025 -> 1200, 1045 -> 1150, 1084 -> 1500, 1410 -> 1600
    assert sorted(gpu.launch_delays()) == pytest.approx(np.array([85, 105, 175, 190, 416]) * MICRO)


def test_the_calls_of_a_launch_are_no_time_of_the_operator(gpu: Trace) -> None:
    (linear,) = gpu.operators()
    assert linear.self_time == pytest.approx(20 * MICRO)


def test_kernels_of_a_graph_share_the_launch(tmp_path: Path) -> None:
    graph = launch(10, 5, 9) | {"name": "cudaGraphLaunch"}
    kernels = [kernel("gemm_a", 100, 5, 9), kernel("gemm_b", 110, 5, 9)]
    trace = trace_of(tmp_path, [step("DECODE bs=4", 0, 50), graph, *kernels])
    assert trace.step_of.tolist() == [0, 0, 0, 0]
    assert trace.launch_delays() == pytest.approx(np.array([85, 95]) * MICRO)


def test_kernels_without_a_launch_belong_to_no_step(tmp_path: Path) -> None:
    trace = trace_of(
        tmp_path, [step("DECODE bs=4", 0, 50), slice_("aten::mm", 1, 9), kernel("gemm", 5, 9, 3)]
    )
    assert trace.step_of.tolist() == [0, 0, -1]
    assert trace.steps[0].duration == pytest.approx(50 * MICRO)


def test_a_trace_of_the_device_alone_has_its_steps(tmp_path: Path) -> None:
    spans = [
        step(name, at, 100, pid=0, tid=7) | {"cat": "gpu_user_annotation"}
        for name, at in (("EXTEND bs=1 toks=9", 0), ("DECODE bs=1", 200))
    ]
    trace = trace_of(tmp_path, [*spans, kernel("gemm", 10, 20, 1), kernel("gemm", 210, 20, 2)])
    assert [step.stage for step in trace.steps] == ["EXTEND", "DECODE"]
    assert trace.step_of.tolist() == [0, 0, 1, 1]


def test_the_time_that_slices_share_belongs_to_the_later_one(tmp_path: Path) -> None:
    # first 0-10 and second 5-15 overlap without being nested; third 12-14 lies in the second.
    events = [slice_("first", 0, 10), slice_("second", 5, 10), slice_("third", 12, 2)]
    own = {row.name: row.self_time for row in trace_of(tmp_path, events).operators()}
    assert own == pytest.approx({"first": 5 * MICRO, "second": 8 * MICRO, "third": 2 * MICRO})


def test_stages_of_speculative_and_detailed_steps(tmp_path: Path) -> None:
    names = [
        "EXTEND bs=2 toks=30 c_sq=30 c_sqsq=500 c_sqsk=700 c_sk=40 forward_id=3",
        "DECODE bs=4 g_sq=4 g_sqsq=4 g_sqsk=90 g_sk=90",
        "VERIFY bs=2 g_sq=8 g_sqsq=32 g_sqsk=200 g_sk=50",
        "MIXED bs=3 c=1 g=2 c_sq=10 c_sk=10 c_sqsq=100 c_sqsk=100 g_sq=2 g_sk=9 g_sqsq=2 g_sqsk=9",
        "DRAFT bs=2",
    ]
    trace = trace_of(tmp_path, [step(name, 100 * place, 50) for place, name in enumerate(names)])
    assert [(step.stage, step.batch_size, step.tokens) for step in trace.steps] == [
        ("EXTEND", 2, 30),
        ("DECODE", 4, 4),
        ("VERIFY", 2, 8),
        ("MIXED", 3, 12),
        ("DRAFT", 2, 2),
    ]


def test_inner_steps_keep_what_is_theirs(tmp_path: Path) -> None:
    trace = trace_of(
        tmp_path,
        [
            step("DRAFT bs=2", 0, 100),
            step("DRAFT bs=2", 20, 30),
            slice_("aten::mm", 25, 5),
            slice_("aten::mm", 60, 5),
        ],
    )
    assert trace.step_of.tolist() == [0, 1, 1, 0]


def test_a_card_and_a_text(cpu: Trace, gpu: Trace) -> None:
    print(cpu, gpu, sep="\n")
    assert "1 EXTEND, 1 DECODE" in repr(cpu)
    assert "CPU busy 48 %" in repr(cpu)
    assert "device busy 41 %" in repr(gpu)
    assert "gemm" in cpu._repr_mimebundle_()["text/html"]


def test_a_kernel_before_its_launch_belongs_to_it(tmp_path: Path) -> None:
    """The clock of a device may be some µs behind that of the CPU; a graph's kernels share one launch."""
    trace = trace_of(
        tmp_path,
        [
            step("DECODE bs=1", 1000, 100),
            launch(1010, 5, 7),
            kernel("early", 1008, 20, 7),
            kernel("late", 1030, 20, 7),
            kernel("of another launch", 1060, 20, 8),
        ],
    )
    names = np.array(trace.names)[trace.events.name]
    assert dict(zip(names[1:], trace.step_of[1:].tolist(), strict=True)) == {
        "cudaLaunchKernel": 0,
        "early": 0,
        "late": 0,
        "of another launch": -1,
    }
    assert trace.steps[0].duration == pytest.approx(42 * MICRO)
    assert trace.launch_delays() == pytest.approx([0, 15 * MICRO])
