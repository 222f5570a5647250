"""What a launch shows: nothing if it is quick, a view while it runs, a card at its end."""

from __future__ import annotations

import io
import os
import pickle
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cell import Cell
from support.fake_engine import await_true, installed
from support.html_checks import HOSTILE, checked, parsed
from support.leftovers import nothing_left_behind

from nbruntime.errors import ArgumentTypeError, LaunchError
from nbruntime.launch.phases import Phase
from nbruntime.notebook.views.launch import LaunchView
from nbruntime.runtime import Runtime

WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(autouse=True)
def _engines() -> Iterator[None]:
    with installed(), nothing_left_behind():
        yield


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    """A notebook's cell, in which the test runs."""
    made = Cell()
    made.install(monkeypatch)
    return made


def last(cell: Cell) -> str:
    """What is left in the cell; no widget is."""
    assert set(cell.bundles[-1]) == {"text/plain", "text/html"}
    return checked(cell.bundles[-1])


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A fifo at which the fake server waits while it loads."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


def start(**arguments: Any) -> Runtime:
    return Runtime(engine="fake", port=0, **arguments)


def while_loading(cell: Cell, gate: Path, action: Callable[[], None] = lambda: None) -> threading.Thread:
    """Do something when the view is there, then let the server go on."""

    def wait() -> None:
        try:
            assert cell.shown.wait(20)
            action()
        finally:
            gate.write_text("go")  # else the launch would wait for as long as one may take

    thread = threading.Thread(target=wait, daemon=True)  # nobody may be at the gate any more
    thread.start()
    return thread


def test_a_quick_launch_shows_nothing(cell: Cell) -> None:
    # The tests' machine may be slow: here a minute is quick.
    with start(progress=False) as runtime, LaunchView(runtime, quiet=60.0) as view:
        view(Phase("ready"))
    assert cell.bundles == []


def test_a_launch_ends_with_the_runtime_card(cell: Cell, gate: Path) -> None:
    thread = while_loading(cell, gate)
    with start(gate=str(gate), say=["phase: downloading 12.1/92.9 MB"]) as runtime:
        thread.join()
        live = cell.bundles[0]
        assert WIDGET in live
        checked(live)
        assert len(cell.outputs) == 1
        assert "fake/model" in last(cell)
        assert "ready" in last(cell)
        assert runtime.url in last(cell)
        assert not [each for each in threading.enumerate() if each.name == "nbruntime-launch"]


def test_phase_bar_time_and_log_while_it_runs(cell: Cell, gate: Path) -> None:
    seen: list[str] = []

    def read() -> None:
        [view] = views
        *_, box = view._kit._made
        await_true(lambda: "downloading" in box.children[1].value and "hub" in box.children[3].value)
        seen.extend(child.value for child in box.children)

    views: list[LaunchView] = []
    make = LaunchView.__init__

    def remember(view: LaunchView, *given: Any, **options: Any) -> None:
        make(view, *given, **options)
        views.append(view)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LaunchView, "__init__", remember)
        thread = while_loading(cell, gate, read)
        said = ["phase: downloading 12.1/92.9 MB", f"from the hub: {HOSTILE[:40]}"]
        start(gate=str(gate), say=said, model_path="<b>model</b>").shutdown()
        thread.join()
    _style, head, fold, log = seen
    assert re.search(r"downloading 12\.1/92\.9 MB, \d+ s", " ".join(parsed(head).itertext()))
    (bar,) = [each for each in parsed(head).iter("div") if each.get("role") == "progressbar"]
    assert bar.get("aria-valuenow") == "13"
    assert "<b>model</b>" in "".join(parsed(head).itertext())
    assert "<details>" in fold
    assert "<script>" in "".join(parsed(log).itertext())


@pytest.mark.parametrize("slow", [False, True], ids=["at once", "after a while"])
def test_a_failure_shows_its_cause_first_and_stays_short(cell: Cell, gate: Path, slow: bool) -> None:
    thread = while_loading(cell, gate) if slow else None
    options = {"gate": str(gate)} if slow else {}
    with pytest.raises(LaunchError) as caught:
        start(
            fail="RuntimeError: no kernel image <is> available",
            say=["a line of the log", "key {key}"],
            api_key="sk-hidden",
            **options,
        )
    if thread is not None:
        thread.join()
    assert len(cell.outputs) == 1
    first = last(cell).splitlines()[0]
    assert "RuntimeError: no kernel image <is> available" in first
    assert "a line of the log" in last(cell)
    assert "sk-hidden" not in str(cell.bundles)
    html = cell.bundles[-1]["text/html"]
    assert html.index("no kernel image") < html.index("<details>") < html.index("a line of the log")
    error = caught.value
    shown = error._render_traceback_()  # type: ignore[attr-defined]  # what IPython asks for
    print("\n".join(shown))
    assert len("\n".join(shown).splitlines()) <= 2
    assert "no kernel image" in shown[0]
    assert "a line of the log" in str(error), "outside of the notebook it says all"
    assert pickle.loads(pickle.dumps(error))._render_traceback_() == shown


def test_interrupt_shows_a_card(cell: Cell, gate: Path) -> None:
    def interrupt(phase: Phase) -> None:
        if phase.name == "warming up":
            assert cell.shown.wait(20)
            raise KeyboardInterrupt

    view_call = LaunchView.__call__

    def call(view: LaunchView, phase: Phase) -> None:
        view_call(view, phase)
        interrupt(phase)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LaunchView, "__call__", call)
        with pytest.raises(KeyboardInterrupt):
            start(gate=str(gate), say=["phase: warming up"])
    assert "interrupted" in last(cell)
    assert "warming up" in last(cell)


def test_wrong_argument_shows_no_card(cell: Cell) -> None:
    with pytest.raises(ArgumentTypeError):
        Runtime(engine="embedded", no_such_argument=1)
    assert cell.bundles == []


def test_custom_progress_or_none(cell: Cell, gate: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phases: list[str] = []

    def note(phase: Phase) -> None:
        phases.append(phase.name)
        if phase.name == "loading weights":
            gate.write_text("go")  # else the server may be ready before this phase is heard of

    start(progress=note, gate=str(gate)).shutdown()
    assert phases == ["starting", "loading weights", "ready"]
    start(progress=False, log_level="info").shutdown()
    assert cell.bundles == []
    assert capsys.readouterr().err == ""


class Terminal(io.StringIO):
    """Opens the gate of a server when its last phase but one is shown."""

    def __init__(self, gate: Path) -> None:
        super().__init__()
        self.gate = gate

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if "downloading" in text:
            self.gate.write_text("go")
        return super().write(text)


def test_terminal_clears_its_progress_line(gate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(gate)
    monkeypatch.setattr("sys.stderr", terminal)
    start(log_level="info", say=["phase: downloading 1/9 MB"], gate=str(gate)).shutdown()
    written = terminal.getvalue()
    assert "\n" not in written
    lines = [line.removeprefix("\x1b[K") for line in written.split("\r")]
    assert lines == [
        "",
        "nbruntime: starting",
        "nbruntime: loading weights",
        "nbruntime: downloading 1/9 MB",
        "nbruntime: ready",
        "",
    ]


def test_a_view_that_is_not_shown_takes_no_time(cell: Cell) -> None:
    with start(progress=False) as runtime:
        began = time.monotonic()
        with LaunchView(runtime, quiet=60.0):
            pass
        took = time.monotonic() - began
    print(f"a view that is not needed: {took * 1000:.1f} ms")
    assert took < 5
    assert cell.bundles == []
