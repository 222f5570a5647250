"""The plots of steps: what they draw is what was counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.patches import StepPatch
from support.profiles import busy_profile

from nbruntime.errors import ArgumentValueError
from nbruntime.profiling.plots import plot
from nbruntime.profiling.plots.activity import activity
from nbruntime.profiling.plots.idle import length_classes, plot_idle
from nbruntime.profiling.plots.intervals import common
from nbruntime.profiling.plots.spans import span_of
from nbruntime.profiling.plots.step_table import NO_STEPS, by_stage
from nbruntime.profiling.plots.step_time import MOST_GROUPS, fit, group, plot_step_time
from nbruntime.profiling.plots.steps import COLUMNS, plot_steps
from nbruntime.profiling.plots.trace_data import NO_TRACE
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.records import RequestRecord
from nbruntime.protocol.step_log import Step

# 10 s: a prefill of 2 s, a pause of 1 s, decode of 4 s in two steps, a pause of 3 s.
PROFILE = ProfileData(
    started=1000.0,
    ended=1010.0,
    steps=[
        Step("EXTEND", 1000.0, 2.0, 2, 300),
        Step("DECODE", 1003.0, 1.0, 2, 2),
        Step("DECODE", 1004.0, 3.0, 4, 4),
        Step("IDLE", 1007.0, 0.5, 0, 0),  # SGLang's, of a rank without sequences
    ],
    steps_from="step log",
    requests=[RequestRecord("a", 1000.0, 1007.5), RequestRecord("b", 1002.5, 1004.0)],
)

WORDS = ("plot_steps", "plot_step_time", "plot_idle")


def stairs(figure: Any, panel: int) -> list[np.ndarray]:
    """Return the heights of the steps that a panel shows."""
    patches = [each for each in figure.axes[panel].patches if isinstance(each, StepPatch)]
    return [np.asarray(each.get_data().values) for each in patches]


def at(heights: np.ndarray, second: float) -> float:
    """Return the height at a time."""
    return float(heights[int(second / 10 * len(heights))])


def test_steps_are_divided_by_stage() -> None:
    tables = by_stage([*PROFILE.steps, Step("MIXED", 1.0, 1.0, 3, 30), Step("TARGET_VERIFY", 2.0, 1.0, 1, 4)])
    assert tables["prefill"].batch_sizes.tolist() == [3.0, 2.0]  # by start
    assert tables["decode"].tokens.tolist() == [4.0, 2.0, 4.0]
    assert span_of(PROFILE) == (1000.0, 1010.0)


def test_plot_steps_draws_batch_sizes_and_shares() -> None:
    figure = plot_steps(PROFILE)
    decode_most, decode_mean, prefill_most, prefill_mean = stairs(figure, 0)
    assert len(decode_mean) == COLUMNS
    assert [at(decode_mean, second) for second in (1.0, 3.5, 5.0, 8.0)] == [0, 2, 4, 0]
    assert [at(prefill_mean, second) for second in (1.0, 3.5)] == [2, 0]
    assert np.allclose(decode_most, decode_mean, atol=2)  # they differ only where a step ends
    assert np.allclose(prefill_most, prefill_mean, atol=2)
    prefill, both = stairs(figure, 1)
    assert [at(prefill, second) for second in (1.0, 2.5, 5.0)] == pytest.approx([1, 0, 0])
    assert [at(both, second) for second in (1.0, 2.5, 5.0, 9.0)] == pytest.approx([1, 0, 1, 0])
    assert figure.figures == [
        "1 prefill step: 2 s, 20 % of the time",
        "2 decode steps: 4 s, 40 % of the time",
        "idle: 40 % of the time",
    ]


def test_columns_keep_the_largest_batch_of_many_steps() -> None:
    """10,000 steps in the width: the mean is that over time, and the one large batch is seen."""
    steps = [Step("DECODE", number * 0.001, 0.001, 1, 1) for number in range(10_000)]
    steps[5_000] = Step("DECODE", 5.0, 0.001, 64, 64)
    most, mean = stairs(plot_steps(ProfileData(steps=steps)), 0)
    assert most.max() == 64
    assert at(most, 5.0) == 64
    assert at(mean, 5.0) == pytest.approx(1 + 63 * 0.001 / (10 / COLUMNS))


def test_ranks_that_compute_at_once_count_once() -> None:
    twice = [*PROFILE.steps, *PROFILE.steps]
    figure = plot_steps(ProfileData(started=1000.0, ended=1010.0, steps=twice))
    assert figure.figures[-1] == "idle: 40 % of the time"


def test_groups_are_by_size_or_of_neighbours() -> None:
    groups = group(np.array([2.0, 1, 2, 1, 1]), np.array([5.0, 1, 7, 2, 3]))
    assert groups.sizes.tolist() == [1, 2]
    assert groups.medians.tolist() == [2, 6]
    assert groups.counts.tolist() == [3, 2]
    assert groups.low.tolist() == pytest.approx([1.2, 5.2])
    assert groups.high.tolist() == pytest.approx([2.8, 6.8])
    sizes = np.repeat(np.arange(1.0, 401), 2)
    many = group(sizes, sizes)
    assert len(many.sizes) == MOST_GROUPS
    assert many.counts.tolist() == [50] * MOST_GROUPS
    assert many.medians.tolist() == many.sizes.tolist()


def test_the_line_tells_what_a_step_costs() -> None:
    sizes = np.arange(1.0, 9)
    line = fit(group(sizes, 0.01 + 0.002 * sizes))
    assert line is not None
    assert (line.fixed, line.each) == pytest.approx((0.01, 0.002))
    through_origin = fit(group(sizes, 0.002 * sizes**2))  # a line would begin below zero
    assert through_origin is not None
    assert through_origin.fixed == 0
    assert through_origin.each == pytest.approx(0.002 * (sizes**3).sum() / (sizes**2).sum())
    assert fit(group(sizes, 1 - sizes / 10)) is None
    assert fit(group(sizes[:2], sizes[:2])) is None


def test_plot_step_time_says_what_lies_beyond() -> None:
    steps = [Step("DECODE", float(n), 0.010 + n % 4 * 0.001, 1 + n % 4, 1 + n % 4) for n in range(400)]
    steps[7] = Step("DECODE", 7.0, 3.0, 4, 4)
    figure = plot_step_time(ProfileData(steps=steps))
    left, right = figure.axes
    assert left.get_ylim()[1] < 0.03
    assert "↑ 1 step of up to 3 s" in [text.get_text() for text in left.texts]
    assert [text.get_text() for text in right.texts] == ["No prefill step"]
    assert figure.figures == ["decode: 9 ms + 1 ms per sequence"]


def test_plot_idle_divides_the_gaps() -> None:
    busy = activity(PROFILE)
    assert busy is not None
    assert [each.tolist() for each in busy.idle()] == [[1002.0, 1007.0], [1003.0, 1010.0]]
    figure = plot_idle(PROFILE)
    assert figure.figures == [
        "idle: 4 s, 40 % of 10 s, in 2 gaps",
        "1.5 s of it while requests were in flight",
    ]
    waiting, idle = stairs(figure, 0)
    assert [at(waiting, second) for second in (1, 2.5, 7.2, 9)] == pytest.approx([0, 1, 1, 0])
    assert [at(idle, second) for second in (1, 2.5, 7.2, 9)] == pytest.approx([0, 1, 1, 1])
    words = [text.get_text() for text in figure.axes[1].texts]
    assert words == ["4 s in 2"]


def test_idle_time_of_steps_from_a_trace_is_that_between_them() -> None:
    busy = activity(ProfileData(started=0.0, ended=2000.0, steps=PROFILE.steps, steps_from="trace"))
    assert busy is not None
    assert (busy.begin, busy.end) == (1000.0, 1007.0)
    assert busy.requests is None


def test_the_source_of_idle_time_can_be_chosen() -> None:
    assert plot_idle(PROFILE, source="steps").figures == plot_idle(PROFILE).figures
    assert plot_idle(PROFILE, source="trace").figures == [NO_TRACE]
    with pytest.raises(ArgumentValueError, match="source='kernels' tells nothing"):
        plot_idle(PROFILE, source="kernels")  # type: ignore[arg-type]


def test_requests_of_another_time_are_not_in_flight() -> None:
    data = ProfileData(steps=PROFILE.steps, requests=[RequestRecord("a", 5.0, 6.0)])
    figure = plot_idle(data)
    assert not any("in flight" in line for line in figure.figures)
    assert figure.axes[0].get_legend() is None


def test_long_gaps_have_a_class_without_an_end() -> None:
    steps = [Step("DECODE", at, 1.0, 1, 1) for at in (0.0, 31.0)]
    figure = plot_idle(ProfileData(steps=steps))
    assert [text.get_text() for text in figure.axes[1].texts] == ["30 s in 1"]
    figure.draw_without_rendering()


def test_classes_of_lengths() -> None:
    names, edges = length_classes(np.array([5e-5, 0.5, 20.0]))
    assert (names[0], names[-1]) == ("under 0.1 ms", "over 10 s")
    assert len(edges) == len(names) + 1
    empty = np.empty(0)
    assert [len(each) for each in common(empty, empty, np.array([1.0]), np.array([2.0]))] == [0, 0]


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("steps", [[], [Step("IDLE", 1.0, 1.0, 0, 0)]])
def test_words_stand_where_there_are_no_steps(name: str, steps: list[Step]) -> None:
    figure = plot(name, ProfileData(steps=steps))
    assert [text.get_text() for text in figure.axes[0].texts] == [NO_STEPS]
    figure.draw_without_rendering()


@pytest.mark.parametrize("name", WORDS)
def test_single_steps_and_steps_without_duration_are_drawn(name: str) -> None:
    for steps in ([Step("DECODE", 5.0, 0.0, 1, 1)], [Step("EXTEND", 5.0, 1.0, 1, 9)]):
        plot(name, ProfileData(steps=steps)).draw_without_rendering()


@pytest.mark.parametrize("name", WORDS)
def test_every_axis_has_a_label_with_its_unit(name: str) -> None:
    figure = plot(name, busy_profile(200))
    figure.draw_without_rendering()
    labels = [label for axes in figure.axes for label in (axes.get_ylabel(), axes.get_xlabel()) if label]
    units = ("(s)", "(ms)", "(sequences)", "tokens", "share", "length")
    assert all(any(unit in label for unit in units) for label in labels), labels
    sizes = [text.get_fontsize() for axes in figure.axes for text in axes.get_xticklabels() + axes.texts]
    assert min(sizes) >= 9
