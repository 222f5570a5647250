"""Every plot of profiles that are odd: no time, all failed, hours or milliseconds long."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from matplotlib.ticker import Locator

from nbruntime.profiling.plots import PLOTS, plot
from nbruntime.profiling.plots.figure import Figure
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.records import RequestRecord
from nbruntime.protocol.step_log import Step

BEGIN = 1_800_000_000.0
HOUR = 3600.0


def answered(at: float, *arrivals: float, **options: Any) -> RequestRecord:
    """Return a request that is sent at `at`, whose tokens come so many seconds later; it ends with them."""
    sent, count = BEGIN + at, len(arrivals)
    ended = sent + (arrivals[-1] if arrivals else 0.0)
    events = tuple((time, 1) for time in arrivals)
    return RequestRecord("a", sent, ended, events, prompt_tokens=5, completion_tokens=count, **options)


ODD = {
    "no time at all": ProfileData(
        started=BEGIN,
        ended=BEGIN,
        requests=[answered(0, 0, 0)] * 9,
        steps=[Step("DECODE", BEGIN, 0.0, 0, 0)],
    ),
    "a clock set back": ProfileData(started=BEGIN, ended=BEGIN - 1, requests=[answered(3, -0.2, -0.1)] * 9),
    "failed": ProfileData(started=BEGIN, ended=BEGIN + 1, requests=[answered(0, status="failed")] * 3),
    "still running, nothing sent": ProfileData(started=BEGIN),
    "two ranks at once": ProfileData(
        requests=[answered(0, 1, 2)], steps=[Step("DECODE", BEGIN + 1, 0.5, 1, 1)] * 2
    ),
}


@pytest.mark.parametrize("name", PLOTS)
@pytest.mark.parametrize("kind", ODD)
def test_draws_without_a_warning(kind: str, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plot(name, ODD[kind])
        figure.draw_without_rendering()
    assert "nan" not in figure.description()


def labels(figure: Figure, panel: int, axis: str = "xaxis") -> list[str]:
    """Return the ticks of an axis."""
    chosen = getattr(figure.axes[panel], axis)
    locator: Locator = chosen.get_major_locator()
    low, high = chosen.get_view_interval()
    return [chosen.get_major_formatter()(at) for at in locator() if low <= at <= high]


def test_hours_are_hours() -> None:
    profile = ProfileData(
        started=BEGIN, ended=BEGIN + 10 * HOUR, requests=[answered(0, 1), answered(35_000, 2)]
    )
    figure = plot("plot_throughput", profile)
    assert figure.axes[1].get_xlabel() == "time since the start (h)"
    assert labels(figure, 1) == ["0", "2", "4", "6", "8", "10"]


def test_a_few_milliseconds() -> None:
    profile = ProfileData(started=BEGIN, ended=BEGIN + 0.004, requests=[answered(0, 0.001, 0.002)])
    assert "in each 0.05 ms, divided" in plot("plot_throughput", profile).caption
    itl = plot("plot_itl", profile)
    assert labels(itl, 0) == ["2"]  # there is no token 1.95
    assert itl.axes[1].get_xlabel() == "share of 1 gap (%)"


def test_requests_are_whole() -> None:
    profile = ProfileData(started=BEGIN, ended=BEGIN + 2, requests=[answered(0, 0.5, 1)])
    assert labels(plot("plot_throughput", profile), 1, "yaxis") == ["0", "1"]


def test_says_that_all_failed() -> None:
    assert plot("plot_ttft", ODD["failed"]).figures == ["All requests failed."]
