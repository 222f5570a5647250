"""`plot_comparison`: two profiles, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from nbruntime.profiling.plots.comparison import change, compared, plot_comparison
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.records import RequestRecord
from nbruntime.protocol.step_log import Step


def profile(speed: float) -> ProfileData:
    """Two finished requests, and two others that count only for tokens and time."""
    arrivals = ((0.4 / speed, 1), (0.5 / speed, 2), (0.8 / speed, 1))
    return ProfileData(
        started=100.0,
        ended=110.0,
        requests=[
            RequestRecord("a", 100.0, 101.0, arrivals, completion_tokens=4),
            RequestRecord("b", 100.0, 102.0, ((0.6 / speed, 1),), completion_tokens=1),
            RequestRecord("c", 101.0, 104.0, ((2.0, 3),), status="stopped", completion_tokens=3),
            RequestRecord("d", 101.0, 103.0, status="failed"),
        ],
        steps=[Step("EXTEND", 101.0, 2.0 / speed, 1, 9), Step("DECODE", 104.0, 4.0 / speed, 1, 1)],
    )


def test_latencies_are_those_of_finished_requests() -> None:
    found = compared(profile(1.0), "A")
    assert found.ttft.tolist() == [0.4, 0.6]
    assert found.itl.tolist() == pytest.approx([0.1, 0.3])
    assert found.token_rate == pytest.approx(8 / 4.0)
    assert found.shares == pytest.approx({"prefill": 0.2, "decode": 0.4})


def test_the_figure_says_what_changed() -> None:
    figure = plot_comparison(profile(1.0), profile(2.0), names=("before", "after"))
    assert figure.figures == [
        "TTFT: median 500 ms → 250 ms (−50 %)",
        "ITL: median 200 ms → 100 ms (−50 %)",
        "Tokens/s: 2 → 2 (±0 %)",
        "Steps: prefill 20 % → 10 %, decode 40 % → 20 %",
    ]
    ttft, _, rates, shares = figure.axes
    before, after = (line.get_xdata() for line in ttft.lines)
    assert np.asarray(before)[[0, 200, -1]] == pytest.approx([0.4, 0.5, 0.6])
    assert np.asarray(after)[[0, 200, -1]] == pytest.approx([0.2, 0.25, 0.3])
    assert [label.get_text() for label in rates.get_yticklabels()] == ["before", "after"]
    assert [bar.get_width() for bar in shares.patches] == pytest.approx([0.2, 0.1, 0.4, 0.2])


def test_one_side_without_latencies_is_said() -> None:
    figure = plot_comparison(profile(1.0), ProfileData())
    assert figure.figures[0] == "TTFT: median 500 ms (A only)"
    assert "No steps are known of B" in [text.get_text() for text in figure.axes[3].texts]


def test_two_empty_profiles_have_words_in_every_panel() -> None:
    figure = plot_comparison(ProfileData(), ProfileData())
    assert all(axes.texts for axes in figure.axes)
    figure.draw_without_rendering()


def test_changes_have_a_sign() -> None:
    assert [change(1, each) for each in (1.5, 0.25, 1.0001)] == ["+50 %", "−75 %", "±0 %"]
    assert change(0, 5) == ""
