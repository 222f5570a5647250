"""The line in a terminal while a trace is read."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from support.kineto import kineto, slice_

from nbruntime import read_trace
from nbruntime.profiling.trace import progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def opened(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Open a terminal inside of a test: pytest sets the stream anew after the fixtures."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    return stream


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "run-TP-0.trace.json"
    path.write_text(kineto([slice_("aten::mm", 10 * number, 5) for number in range(6000)]))
    return path


def test_a_line_is_written_and_removed(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = opened(monkeypatch)
    read_trace(trace)
    assert terminal.getvalue().startswith("\r\x1b[Knbruntime: reading run-TP-0.trace.json: ")
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_nothing_is_written_if_not_wanted(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = opened(monkeypatch)
    read_trace(trace, progress=False)
    read_trace(trace, progress=lambda done, total: None)
    monkeypatch.setattr(progress, "QUIET_SECONDS", 60.0)
    read_trace(trace)
    assert terminal.getvalue() == ""


def test_an_interrupt_goes_through(trace: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_trace(trace, progress=stop)
