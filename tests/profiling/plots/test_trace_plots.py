"""The plots of traces: what they draw is what was counted by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from support.kineto import kernel, kineto, launch, slice_, step

from nbruntime.profiling.plots import plot
from nbruntime.profiling.plots.kernel_classes import panels_of, plot_kernel_classes
from nbruntime.profiling.plots.operators import plot_operators
from nbruntime.profiling.plots.trace_data import LONGEST_NAME, NO_TRACE, short_name
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.records import RequestRecord
from nbruntime.profiling.trace import Trace, read_trace

CPU = (
    step("EXTEND bs=3 toks=512", 0, 3_000),
    slice_("aten::linear", 0, 1_000),
    slice_("aten::addmm", 100, 800),
    slice_("aten::mul", 1_500, 500),
    step("DECODE bs=3", 4_000, 2_000),
    slice_("aten::linear", 4_000, 2_000),
    slice_("aten::add", 9_000, 1_000),  # outside of steps
)
"""Times in µs."""

GPU = (
    step("EXTEND bs=1 toks=9", 0, 1_000),
    slice_("aten::mm", 0, 300),
    launch(100, 50, 1),
    kernel("ampere_bf16_s16816gemm_bf16_128x64", 500, 4_000, 1),
    step("DECODE bs=1", 1_000, 1_000),
    launch(1_100, 50, 2),
    kernel("void flash::flash_fwd_kernel<Traits>(Params)", 5_000, 1_000, 2),
)
"""The second kernel belongs to the decode step that launched it, though it runs later."""


def read(folder: Path, events: Sequence[dict[str, Any]]) -> Trace:
    path = folder / "run-TP-0.trace.json"
    path.write_text(kineto(events))
    return read_trace(path)


def bars(axes: Axes) -> dict[str, float]:
    """Return the lengths of the bars of a panel in ms, by the labels of their rows."""
    labels = zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
    rows = {round(place): label.get_text() for place, label in labels}
    return {rows[round(bar.get_y() + bar.get_height() / 2)]: bar.get_width() * 1e3 for bar in axes.patches}


def words(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_operators_have_their_own_time_and_the_colour_of_their_class(tmp_path: Path) -> None:
    figure = plot_operators(ProfileData(trace=read(tmp_path, CPU)))
    [axes] = figure.axes
    assert bars(axes) == pytest.approx(
        {"aten::linear": 2.2, "aten::add": 1.0, "aten::addmm": 0.8, "aten::mul": 0.5}
    )
    assert list(bars(axes)) == ["aten::linear", "aten::add", "aten::addmm", "aten::mul"]
    assert words(axes)[0] == "2.2 ms, 49 %, 2 calls"
    assert figure.figures == ["Operators: most time in aten::linear, 2.2 ms (49 %)"]
    found = [bar.get_facecolor() for bar in axes.patches]
    assert found[0] == found[2] != found[1] == found[3]  # gemm, and norm and elementwise


def test_the_most_are_chosen_and_the_share_is_of_all(tmp_path: Path) -> None:
    figure = plot_operators(ProfileData(trace=read(tmp_path, CPU)), top=1)
    assert words(figure.axes[0]) == ["2.2 ms, 49 %, 2 calls"]


def test_kernels_come_before_operators(tmp_path: Path) -> None:
    figure = plot_operators(ProfileData(trace=read(tmp_path, GPU)))
    kernels, operators = figure.axes
    assert list(bars(kernels).values()) == pytest.approx([4.0, 1.0])
    assert list(bars(operators)) == ["aten::mm"]
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "time on the device (ms)",
        "time without inner operators (µs)",
    ]
    assert figure.axes[1].get_legend() is None  # one for the whole figure


def test_classes_are_divided_by_stage(tmp_path: Path) -> None:
    trace = read(tmp_path, CPU)
    panels = panels_of(trace)
    used = {title: {kind: time for kind, time in panel.items() if time} for title, panel in panels.items()}
    assert used == {
        "Prefill steps": pytest.approx({"gemm": 1e-3, "norm and elementwise": 0.5e-3}),
        "Decode steps": pytest.approx({"gemm": 2e-3}),
        "Outside of steps": pytest.approx({"norm and elementwise": 1e-3}),
    }
    sums = {kind: sum(panel[kind] for panel in panels.values()) for kind in trace.classes()}
    assert sums == pytest.approx(trace.classes())
    figure = plot_kernel_classes(ProfileData(trace=trace))
    prefill, decode, outside = figure.axes
    assert bars(prefill) == pytest.approx({"gemm": 1.0, "norm and elementwise": 0.5})
    assert words(decode) == ["2 ms, 100 %", "none"]
    assert outside.get_title("left") == "Outside of steps: 1 ms"
    assert prefill.get_xlim() == decode.get_xlim()  # lengths compare


def test_kernels_count_in_the_step_that_launched_them(tmp_path: Path) -> None:
    panels = panels_of(read(tmp_path, GPU))
    assert {title: panel["gemm"] for title, panel in panels.items()} == pytest.approx(
        {"Prefill steps": 4e-3, "Decode steps": 0.0}
    )
    assert panels["Decode steps"]["attention"] == pytest.approx(1e-3)


def test_a_trace_without_steps_has_one_panel(tmp_path: Path) -> None:
    figure = plot_kernel_classes(ProfileData(trace=read(tmp_path, [slice_("aten::mm", 0, 100)])))
    assert [axes.get_title("left") for axes in figure.axes] == ["All: 0.1 ms"]


def test_idle_time_is_that_of_the_device(tmp_path: Path) -> None:
    trace = read(tmp_path, GPU)
    step_at = trace.busy().intervals[0, 0]
    request = RequestRecord("a", step_at - 1, step_at + 0.0042)  # until 0.2 ms into the gap of 0.5 ms
    figure = plot("plot_idle", ProfileData(trace=trace, requests=[request]))
    assert "a kernel on the device" in figure.caption
    assert figure.figures == [
        "idle: 0.5 ms, 9.1 % of 5.5 ms, in 1 gap",
        "0.2 ms of it while requests were in flight",
    ]


def test_idle_time_without_a_device_is_that_of_operators(tmp_path: Path) -> None:
    figure = plot("plot_idle", ProfileData(trace=read(tmp_path, CPU)))
    assert "an operator on the CPU" in figure.caption
    assert figure.figures == ["idle: 5.5 ms, 55 % of 10 ms, in 3 gaps"]


@pytest.mark.parametrize("name", ["plot_operators", "plot_kernel_classes"])
def test_words_stand_where_there_is_no_trace(name: str, tmp_path: Path) -> None:
    assert words(plot(name, ProfileData()).axes[0]) == [NO_TRACE]
    trace = read(tmp_path, [step("DECODE bs=1", 0, 10)])
    assert words(plot(name, ProfileData(trace=trace)).axes[0]) == ["The trace has no operator and no kernel."]


def test_names_keep_their_begin_and_end() -> None:
    name = f"void begin<{'x' * 100}>::end"
    assert len(short_name(name)) == LONGEST_NAME + 1
    assert short_name(name).startswith("begin<xxx")
    assert short_name(name).endswith("xx>::end")
    assert short_name("a\x1b[31m\nb") == "a␛[31m b"
