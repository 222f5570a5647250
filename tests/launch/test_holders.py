"""What holds an object in a notebook."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from support.ipython_shell import notebook_shell, run

from nbruntime.launch.holders import PLACES, holders_of


class Thing:
    """What is looked for."""

    def method(self) -> None: ...


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    monkeypatch.delattr(builtins, "_", raising=False)  # doctest leaves one, and IPython then makes none
    with notebook_shell(tmp_path) as made:
        made.push({"Thing": Thing})
        yield made


def test_variables_and_entries_of_containers(shell: InteractiveShell) -> None:
    thing, other = Thing(), Thing()
    shell.push({"a": thing, "pair": (other, thing), "by_name": {"x": thing}, "deep": [[thing]]})
    assert holders_of([thing]) == ["a", "pair[1]", "by_name['x']"]
    assert holders_of([other]) == ["pair[0]"]
    shell.push({"bound": other.method})
    assert holders_of([other]) == ["bound", "pair[0]"]
    assert holders_of([Thing()]) == holders_of([]) == []


def test_sets_and_attributes_of_the_notebooks_own_objects(shell: InteractiveShell) -> None:
    run(shell, "class Holder: pass\nholder = Holder()\nholder.thing = thing = Thing()\nmany = {thing}")
    thing = shell.user_ns.pop("thing")
    assert holders_of([thing]) == ["holder.thing", "many"]


def test_results_of_cells(shell: InteractiveShell) -> None:
    def cell(code: str) -> None:
        shell.run_cell(code, store_history=True).raise_error()

    cell("thing = Thing()\nthing")
    thing = shell.user_ns["thing"]
    assert holders_of([thing]) == ["thing", "Out[1]"]
    cell("del thing")
    assert holders_of([thing]) == ["Out[1]"]
    cell("del Out[1]")
    assert {"_", "_1"} <= set(holders_of([thing]))
    cell("%reset -f out")
    assert holders_of([thing]) == []


def test_frames_of_the_last_error(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, "things = [Thing()]\ndef fail(inner):\n    1 / 0")
    thing = shell.user_ns["things"][0]
    assert isinstance(shell.run_cell("fail(things.pop())").error_in_exec, ZeroDivisionError)
    assert holders_of([thing]) == ["the traceback of the last error"]
    assert isinstance(shell.run_cell("thing = Thing(); 1 / 0").error_in_exec, ZeroDivisionError)
    assert holders_of([shell.user_ns["thing"]]) == ["thing"]


def test_names_of_the_magics(monkeypatch: pytest.MonkeyPatch) -> None:
    thing = Thing()
    monkeypatch.setitem(PLACES, "%sgl_launch --name", {"llama": thing})
    assert holders_of([thing]) == ["%sgl_launch --name llama"]
