"""Reports: one page, without a script, that needs nothing else."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from support.hand_profiles import decode, extend, profile, request, sample
from support.html_checks import HOSTILE

from nbruntime.profiling import report
from nbruntime.profiling.plots import PLOTS
from nbruntime.profiling.profile import Profile
from nbruntime.profiling.trace.trace import Trace

VOID = {"meta", "img", "br", "hr"}


class Page(HTMLParser):
    """Checks that elements are closed in their order, and collects them with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of one request with a hostile name."""
    made = profile(
        request("a", 0, ended=2, error=HOSTILE, prompt_tokens=0),
        model=HOSTILE,
        notes=[HOSTILE],
    )
    path = made.report(tmp_path_factory.mktemp("report") / "report.html")
    return path.read_text()


def test_the_page_is_self_contained_and_has_no_script(page: str) -> None:
    elements = Page(page).elements
    tags = {tag for tag, _ in elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "form", "base"}
    for tag, attributes in elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert "href" not in attributes
        if tag == "img":
            assert (attributes["src"] or "").startswith("data:image/png;base64,")
    assert "url(http" not in page
    assert "@import" not in page
    assert [tag for tag, _ in elements].count("img") == 1  # the waterfall; nothing was streamed


def test_the_page_says_it_all_in_both_themes(page: str) -> None:
    for words in ("Summary", "Figures", "Plots", "Requests", "Definitions", "Notes", "(E2E - TTFT)"):
        assert words in page
    assert "color-scheme:light dark" in page
    assert "@media (prefers-color-scheme:dark)" in page
    assert "The request took" in page or "The requests took 2 s at the median." in page


def test_hostile_texts_are_escaped(page: str) -> None:
    assert "<script" not in page
    assert "onerror" not in {name for _, attributes in Page(page).elements for name in attributes}
    assert not re.search("[\x00-\x08\x1b\u202e]", page)


@pytest.mark.parametrize(
    ("made", "plots"),
    [
        (Profile(), set()),
        (profile(request("a", 0, ended=1, prompt_tokens=0)), {"plot_requests"}),
        (
            profile(request("a", 0, 1, 2)),
            {"plot_requests", "plot_ttft", "plot_itl", "plot_throughput", "plot_cache"},
        ),
        (profile(samples=[sample(1, num_running_reqs=1)]), {"plot_throughput", "plot_cache"}),
        (profile(steps=[extend(0, 1, a=1), decode(1, 2, "a")]), {"plot_steps", "plot_step_time"}),
        (profile(trace=Trace([], [])), {"plot_operators", "plot_kernel_classes", "plot_idle"}),
    ],
)
def test_plots_that_have_data_are_drawn(
    made: Profile, plots: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    class Drawn:
        def html(self, page: str) -> str:
            assert page == "system"
            return "<p>drawn</p>"

    def plot(name: str, data: Any) -> Drawn:
        drawn.append(name)
        return Drawn()

    monkeypatch.setattr(report, "plot", plot)
    assert report.report_html(made).count("<p>drawn</p>") == len(plots)
    assert set(drawn) == plots
    assert drawn == [name for name in PLOTS if name in plots]
    assert report._HAS_DATA.keys() == PLOTS.keys()


def test_a_report_that_cannot_be_made_leaves_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("before")

    def plot(name: str, data: Any) -> None:
        raise ValueError(name)

    monkeypatch.setattr(report, "plot", plot)
    with pytest.raises(ValueError, match="plot_requests"):
        profile(request("a", 0, 1)).report(path)
    assert path.read_text() == "before"
