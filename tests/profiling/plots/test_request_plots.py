"""The pictures of requests, of the cache and of load tests: words, units, themes; what is drawn."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib.colors
import numpy as np
import pytest
from matplotlib import _pylab_helpers
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.text import Text
from support.simulated_profile import START, simulated_profile

from nbruntime.errors import ArgumentValueError
from nbruntime.profiling.bench_run import BenchRun
from nbruntime.profiling.plots.cache import plot_cache
from nbruntime.profiling.plots.figure import Figure
from nbruntime.profiling.plots.itl import plot_itl
from nbruntime.profiling.plots.lateness import plot_lateness
from nbruntime.profiling.plots.requests import plot_requests
from nbruntime.profiling.plots.sweep import plot_sweep
from nbruntime.profiling.plots.throughput import plot_throughput
from nbruntime.profiling.plots.ttft import plot_ttft
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.records import RequestRecord
from nbruntime.profiling.sweep_point import SweepPoint
from nbruntime.protocol.step_log import Step

PLOTS: list[Callable[..., Figure]] = [plot_requests, plot_ttft, plot_itl, plot_throughput, plot_cache]

SMALL = RequestRecord("a", START, START + 2, ((1.0, 1), (1.5, 1)), prompt_tokens=8, completion_tokens=2)

PROFILES: dict[str, ProfileData] = {
    "all is known": simulated_profile(40),
    "requests alone": dataclasses.replace(simulated_profile(40, server_times=False), steps=[], samples=[]),
    "one request": simulated_profile(1),
    "nothing": ProfileData(),
    "load alone": dataclasses.replace(simulated_profile(8), requests=[]),
    "steps alone": ProfileData(steps=[Step("DECODE", START, 1.0, 1, 1, used_tokens=9)]),
    "not streamed": ProfileData(
        requests=[dataclasses.replace(SMALL, arrivals=()), RequestRecord("b", START, START, status="failed")]
    ),
    "no counts": ProfileData(requests=[RequestRecord("a", START, START + 1, ((0.5, 1), (0.5, 1)))]),
}


def curve(label: str, *, doubt: str = "") -> list[SweepPoint]:
    e2e = {1: 1.0, 2: 1.05, 4: 1.15, 8: 1.4, 16: 2.8, 32: 5.6}
    return [
        SweepPoint(
            label,
            load,
            64 * load / seconds,
            ttft=seconds / 9,
            tpot=seconds / 70,
            e2e=seconds,
            goodput=load / seconds,
            intervals={"ttft": (seconds / 10, seconds / 8), "throughput": (60 * load / seconds,) * 2},
            doubt=doubt if load == 32 else "",
        )
        for load, seconds in e2e.items()
    ]


def run(label: str, lateness: float) -> BenchRun:
    requests = [
        dataclasses.replace(SMALL, sent=START + number + lateness, scheduled=START + number)
        for number in range(9)
    ]
    return BenchRun(label, "", "", "open", 1.0, None, START, START + 9, (START, START + 9), requests)


DRAWN = [f"{plot.__name__}: all is known" for plot in PLOTS] + ["plot_sweep", "plot_lateness"]
"""One figure of each kind."""


def every_figure() -> Iterator[tuple[str, Figure]]:
    for plot in PLOTS:
        for name, data in PROFILES.items():
            yield f"{plot.__name__}: {name}", plot(data)
    yield "plot_sweep", plot_sweep([*curve("a", doubt="the client was the limit"), *curve("b")])
    yield "plot_sweep: nothing", plot_sweep([])
    yield "plot_sweep: no latency", plot_sweep([SweepPoint("a", float("inf"), 0.0, loop="open")])
    yield "plot_sweep: one", plot_sweep([SweepPoint("a", float("inf"), 9.0, ttft=1.0, loop="open")])
    yield "plot_lateness", plot_lateness([run("a", 0.001), run("b", 0.0)])
    yield "plot_lateness: nothing", plot_lateness([])


@pytest.fixture(scope="module")
def figures() -> dict[str, Figure]:
    return dict(every_figure())


def words(figure: Figure) -> list[str]:
    """The texts that are drawn."""
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


def has_data(axes: Axes) -> bool:
    return bool(axes.lines or axes.collections or axes.patches)


def test_captions_titles_and_units(figures: dict[str, Figure]) -> None:
    for name, figure in figures.items():
        assert figure.caption.endswith("."), name
        assert figure.figures or not any(has_data(axes) for axes in figure.axes), name
        assert any(axes.get_title(loc="left") for axes in figure.axes), name
        for axes in figure.axes:
            if has_data(axes):
                shared = axes.get_shared_y_axes().get_siblings(axes)
                assert any(each.get_ylabel() for each in shared), name
        if any(has_data(axes) for axes in figure.axes):
            assert any(axes.get_xlabel() for axes in figure.axes), name


def test_words_in_place_of_data(figures: dict[str, Figure]) -> None:
    for name, figure in figures.items():
        for axes in figure.axes:
            assert has_data(axes) or axes.texts, f"{name} has empty axes"
    assert "No requests were noted." in words(figures["plot_requests: nothing"])
    assert any("stream the answers" in text for text in words(figures["plot_ttft: not streamed"]))
    assert any("stream the answers" in text for text in words(figures["plot_itl: not streamed"]))


def test_words_are_large_enough(figures: dict[str, Figure]) -> None:
    for name in DRAWN:
        figures[name].draw_without_rendering()
        for text in figures[name].findobj(Text):
            if text.get_visible() and text.get_text():
                assert text.get_fontsize() >= 9, (name, text.get_text())


def test_words_of_quantiles_stand_on_no_line() -> None:
    requests = [
        dataclasses.replace(
            SMALL, rid=str(n), arrivals=((0.1 + n / 1000, 1), (0.3, 1), (0.31 + n % 2 / 50, 1))
        )
        for n in range(60)
    ]
    requests.append(dataclasses.replace(SMALL, rid="late", arrivals=((1.9, 1), (2.0, 1))))
    for plot in (plot_ttft, plot_itl):
        figure = plot(ProfileData(requests=requests))
        figure.draw_without_rendering()
        axes = figure.axes[-1]
        words = [text for text in axes.texts if text.get_text().startswith(("median ", "p"))]
        curves = [line.get_transform().transform_path(line.get_path()) for line in axes.lines]
        assert len(words) >= 2
        for text in words:
            extent = text.get_window_extent()
            assert not [curve for curve in curves if curve.intersects_bbox(extent, filled=False)]


def test_both_themes(figures: dict[str, Figure]) -> None:
    """All colours belong to the theme, so that they change with it."""
    for name in ("plot_requests: all is known", "plot_itl: all is known", "plot_sweep"):
        figure = figures[name]
        known = {getattr(figure.colours, each.name) for each in dataclasses.fields(figure.colours)}
        for line in [line for axes in figure.axes for line in axes.lines]:
            used = {line.get_color(), line.get_markerfacecolor(), line.get_markeredgecolor()} - {"none"}
            assert {matplotlib.colors.to_hex(colour) for colour in used} <= known, name


def test_own_theme() -> None:
    figure = plot_throughput(PROFILES["all is known"], theme="dark")
    assert figure.theme == "dark"
    assert set(figure._repr_mimebundle_()[0]) == {"text/plain", "image/png"}


def test_no_state_of_pyplot(figures: dict[str, Figure]) -> None:
    assert figures
    assert _pylab_helpers.Gcf.figs == {}


def test_figures_are_freed() -> None:
    gone = [weakref.ref(plot(PROFILES["all is known"])) for plot in PLOTS]
    gc.collect()
    assert [ref() for ref in gone] == [None] * len(PLOTS)


class TestUntrustedWords:
    NAME = "$x^2$ <b>a_b</b> $\\frac"

    def test_errors_of_requests(self) -> None:
        failed = dataclasses.replace(SMALL, status="failed", error=f"{self.NAME}: gone")
        figure = plot_requests(ProfileData(requests=[failed, SMALL]))
        assert f"failed: {self.NAME}" in words(figure)
        assert "<b>" not in figure.html()  # draws it, too: formulas that are none would raise

    def test_labels_of_servers(self) -> None:
        sweep = plot_sweep(curve(self.NAME)[:1] + curve("b")[:1])
        for figure in (sweep, plot_lateness([run(self.NAME, 0.1)])):
            assert any(self.NAME in text for text in words(figure))
            assert "<b>" not in figure.html()

    def test_control_characters(self) -> None:
        failed = dataclasses.replace(SMALL, status="failed", error="a\x1b[31mb\x00")
        written = "".join(words(plot_requests(ProfileData(requests=[failed]))))
        assert "failed: a" in written
        assert not {"\x1b", "\x00"} & set(written)


class TestRequests:
    def test_bars_have_the_lengths_of_the_parts(self) -> None:
        times = {
            "request_received_ts": START + 0.1,
            "forward_entry_time": START + 1,
            "prefill_finished_time": START + 3,
        }
        data = ProfileData(requests=[dataclasses.replace(SMALL, ended=START + 7, server_times=times)])
        axes = plot_requests(data).axes[0]
        spans = [
            tuple(np.ptp(path.vertices[:, 0]).round(6) for path in collection.get_paths())
            for collection in axes.collections
            if isinstance(collection, PolyCollection)
        ]
        assert spans == [(0.9,), (2.0,), (4.0,)]
        assert legend(axes) == ["way to the server", "queue", "prefill", "decode"]

    def test_words_beside_few_and_a_legend_of_many(self) -> None:
        stopped = dataclasses.replace(SMALL, status="stopped")
        few = plot_requests(ProfileData(requests=[stopped, SMALL]))
        assert "stopped" in words(few)
        many = plot_requests(ProfileData(requests=[stopped] * 3 + [SMALL] * 60))
        assert "stopped (3)" in legend(many.axes[0])
        assert many.figures == ["63 requests: 60 finished, 3 stopped"]

    def test_steps_stand_under_the_requests(self) -> None:
        figure = plot_requests(PROFILES["all is known"])
        assert [axes.get_ylabel() for axes in figure.axes[1:]] == ["prefill\nsequences", "decode\nsequences"]
        assert len({axes.get_xlim() for axes in figure.axes}) == 1
        largest = max(step.batch_size for step in PROFILES["all is known"].steps if step.stage == "DECODE")
        assert figure.axes[2].get_yticks().tolist() == [0, largest]

    def test_a_part(self) -> None:
        sent = [START + at for at in range(0, 50, 5)]
        requests = [dataclasses.replace(SMALL, sent=at, ended=at + 2) for at in sent]
        figure = plot_requests(ProfileData(requests=requests), between=(9, 21))
        assert figure.figures == ["3 requests: 3 finished"]
        assert figure.axes[0].get_xlim() == (9, 21)
        nothing = plot_requests(ProfileData(requests=requests), between=(8, 9))
        assert nothing.figures == ["No request was under way in this time."]
        with pytest.raises(ArgumentValueError, match="between"):
            plot_requests(ProfileData(requests=requests), between=(9, 9))

    def test_thousands_are_thinned(self) -> None:
        requests = [dataclasses.replace(SMALL, sent=START + at, ended=START + at + 2) for at in range(5000)]
        figure = plot_requests(ProfileData(requests=requests))
        assert "one in 5 is drawn" in figure.caption
        bars = [each for each in figure.axes[0].collections if isinstance(each, PolyCollection)]
        assert [len(each.get_paths()) for each in bars] == [1000, 1000]


def legend(axes: Axes) -> list[str]:
    found: Any = axes.get_legend()
    return [text.get_text() for text in found.get_texts()]


def test_ttft_is_split_where_it_says_something() -> None:
    def request(ttft: float, cached: int) -> RequestRecord:
        arrivals = ((ttft, 1),)
        return dataclasses.replace(SMALL, arrivals=arrivals, prompt_tokens=900, cached_tokens=cached)

    cold = [request(1 + number / 99, 0) for number in range(9)]
    warm = [request(number / 99, 890) for number in range(9)]
    figure = plot_ttft(ProfileData(requests=cold + warm))
    assert "explains" in figure.caption
    assert [text.split("\n")[0] for text in legend(figure.axes[0])] == [
        "all 18 requests",
        "nothing cached",
        "half or more cached",
    ]
    assert plot_ttft(ProfileData(requests=cold)).axes[0].get_legend() is None


def test_failed_requests_spoil_no_ttft() -> None:
    failed = dataclasses.replace(SMALL, arrivals=((99.0, 1),), status="failed")
    assert plot_ttft(ProfileData(requests=[SMALL, failed])).figures == ["median 1 s"]


def test_itl_by_what_else_ran() -> None:
    figure = plot_itl(PROFILES["all is known"])
    assert legend(figure.axes[0])[:2] == ["decode only", "another's prefill"]
    assert "of the gaps held another request's prefill" in figure.figures[1]
    unknown = plot_itl(PROFILES["requests alone"])
    assert unknown.axes[0].get_legend() is None
    assert "not known" in unknown.caption


def test_throughput_counts_tokens() -> None:
    assert plot_throughput(ProfileData(requests=[SMALL])).figures == [
        "1 tokens/s from the first request to the end of the last"
    ]
    assert plot_throughput(PROFILES["all is known"]).figures[1].startswith("at most 16 requests running")
    assert "spread evenly" in plot_throughput(PROFILES["not streamed"]).caption


def test_cache_gives_the_price_of_a_token() -> None:
    """A token of the simulated server's prompts takes 0.25 ms."""
    calm = simulated_profile(40, rate=0.5, retract_at=None)
    level, _, price = plot_cache(calm).figures
    assert level.startswith("KV cache: at most ")
    assert 240 < float(price.split()[1]) < 290
    assert "Theil" in plot_cache(calm).caption
    assert "Theil" not in plot_cache(PROFILES["one request"]).caption


class TestSweep:
    def test_knee_and_loads(self) -> None:
        figure = plot_sweep([*curve("a", doubt="the client was the limit"), *curve("b")])
        assert figure.figures == ["a: knee at 8 users", "b: knee at 8 users"]
        bold = {text.get_text() for text in figure.axes[0].texts if text.get_fontweight() == "bold"}
        assert bold == {"8"}
        assert "Hollow: the client was the limit." in figure.caption
        assert [axes.get_title(loc="left") for axes in figure.axes] == [
            "Time to first token",
            "Time per output token",
            "Goodput",
        ]

    def test_no_knee_yet(self) -> None:
        assert plot_sweep(curve("a")[:2]).figures == ["a: too few runs for a knee"]
        assert plot_sweep(curve("a")[:3]).figures == ["a: no knee up to 4 users"]


def test_lateness_names_runs() -> None:
    assert plot_lateness([run("a", 0.002)]).figures == ["a, 1 requests/s: median 2 ms"]


def test_many_requests() -> None:
    """3,000 requests with about 30,000 tokens."""
    many = simulated_profile(3_000, rate=5, output=10)
    for plot in PLOTS:
        assert plot(many).figures
    assert plot_itl(many).png("light").startswith(b"\x89PNG")
