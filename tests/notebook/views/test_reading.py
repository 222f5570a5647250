"""What a long reading shows in a cell: a bar while it runs, a line at its end."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.cell import Cell
from support.html_checks import checked, parsed
from support.kineto import kineto, slice_

from nbruntime import read_trace
from nbruntime.notebook.views import reading
from nbruntime.notebook.views.reading import ReadingView
from nbruntime.profiling.trace import progress

WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    """A notebook's cell, in which the test runs."""
    made = Cell()
    made.install(monkeypatch)
    return made


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "<b>run-TP-0.trace.json"
    path.write_text(kineto([slice_("aten::mm", 10 * number, 5) for number in range(6000)]))
    return path


def test_a_quick_reading_shows_nothing(cell: Cell, trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "QUIET_SECONDS", 60.0)
    read_trace(trace)
    assert cell.bundles == []


def test_a_long_reading_shows_a_bar_and_then_a_line(
    cell: Cell, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    read_trace(trace)
    live, last = cell.bundles[0], cell.bundles[-1]
    assert WIDGET in live
    (bar,) = [each for each in parsed(live["text/html"]).iter("div") if each.get("role") == "progressbar"]
    assert 0 < int(bar.get("aria-valuenow") or 0) < 100
    assert WIDGET not in last
    assert "<b>run-TP-0.trace.json" in last["text/plain"]
    assert "read in" in last["text/plain"]
    checked(last)


def test_the_bar_moves(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "DRAW_SECONDS", 0.0)
    with ReadingView("run", quiet=0.0) as view:
        view(1_000_000, 4_000_000)
        view(3_000_000, 4_000_000)
        assert 'aria-valuenow="75"' in view._text.value
        assert "reading 3/4 MB" in view._text.value


@pytest.mark.parametrize(
    ("error", "state"), [(KeyboardInterrupt(), "interrupted after"), (OSError("x"), "failed: OSError")]
)
def test_a_reading_that_ends_early_says_so(cell: Cell, error: BaseException, state: str) -> None:
    def read() -> None:
        with ReadingView("run", quiet=0.0) as view:
            view(1, 4)
            raise error

    with pytest.raises(type(error)):
        read()
    assert state in cell.bundles[-1]["text/plain"]
