"""What a load test shows in a notebook: a bar and figures while it runs, then its static form."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.cell import Cell
from support.html_checks import checked
from support.leftovers import nothing_left_behind
from support.timed_server import timed_server

import nbruntime
from nbruntime.notebook.views import bench as views
from nbruntime.notebook.views.bench import BY_INTERRUPT, BenchView
from nbruntime.profiling.bench.progress import BenchProgress
from nbruntime.profiling.bench.running import RunningBench

WIDGET = "application/vnd.jupyter.widget-view+json"
WAIT = 30.0


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with timed_server(first=0.02, step=0.02) as url:
        yield url


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cell]:
    made = Cell()
    made.install(monkeypatch)
    with nothing_left_behind():
        yield made


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a view draws while it runs, as text."""
    seen: list[str] = []
    draw = BenchView.__call__

    def note(view: BenchView, progress: BenchProgress) -> None:
        draw(view, progress)
        seen.append(view.live_card().text())
        checked(view.live_card().mimebundle())

    monkeypatch.setattr(BenchView, "__call__", note)
    return seen


def test_a_cell_that_waits_shows_figures_and_keeps_a_line(cell: Cell, drawn: list[str], url: str) -> None:
    result = nbruntime.bench(url, concurrency=2, requests=6, warmup=0, output_tokens=5)
    [first, last] = cell.bundles
    assert WIDGET in first
    assert set(last) == {"text/plain", "text/html"}
    assert "Load test · done" in last["text/plain"]
    assert "requests 6" in last["text/plain"]
    checked(last)
    assert len(result.runs[0].requests) == 6
    assert any("sent 6 of 6" in text and "TTFT p50" in text for text in drawn)
    assert f"Load test {url} · 2 users" in drawn[-1]


def test_the_button_stops_a_load_test_and_the_result_takes_its_place(
    cell: Cell, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    made: list[BenchView] = []
    initialize = BenchView.__init__

    def remember(view: BenchView, running: RunningBench) -> None:
        initialize(view, running)
        made.append(view)

    monkeypatch.setattr(views.BenchView, "__init__", remember)
    running = nbruntime.bench(url, concurrency=2, seconds=600, output_tokens=2, block=False)
    assert isinstance(running, RunningBench)
    [view] = made
    button = view._box.children[-1]
    assert button.description == "Stop"
    assert BY_INTERRUPT not in str([child.value for child in view._box.children[:-1]])
    assert cell.shown.wait(WAIT)
    button.click()
    assert running.wait(WAIT)
    assert "stopped" in cell.bundles[-1]["text/plain"]
    assert set(cell.bundles[-1]) == {"text/plain", "text/html"}
    checked(cell.bundles[-1])


def test_an_error_is_shown_and_raised(cell: Cell) -> None:
    with timed_server(vocabulary=0) as url, pytest.raises(nbruntime.NbruntimeError, match="no tokens"):
        nbruntime.bench(url)
    assert "no tokens" in cell.bundles[-1]["text/plain"]
    checked(cell.bundles[-1])


def test_nothing_is_shown_if_the_caller_looks(cell: Cell, url: str) -> None:
    seen: list[BenchProgress] = []
    nbruntime.bench(url, concurrency=1, requests=1, warmup=0, output_tokens=1, progress=seen.append)
    assert cell.bundles == []
    assert seen
