"""Using a running server again, and replacing it."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.fake_engine import (
    alive,
    await_gone,
    await_true,
    run_elsewhere,
    server_folders,
    start,
    start_elsewhere,
)
from support.ipython_shell import notebook_shell

import nbruntime
from nbruntime.errors import ArgumentValueError
from nbruntime.launch.launcher import SameServerWarning
from nbruntime.launch.phases import Phase
from nbruntime.runtime import Runtime

CELL = 'runtime = Runtime(engine="fake", port=0)'


def test_cell_run_again_reuses_its_server() -> None:
    runtime = start(name="chat", reuse=True)
    pid, began = runtime.pid, time.perf_counter()
    runtime = start(name="chat", reuse=True)
    print(f"handed back in {1e3 * (time.perf_counter() - began):.0f} ms")
    gc.collect()
    assert runtime.pid == pid
    assert json.loads(runtime.generate("Hi"))["text"] == "Hello world, grüße!"
    assert len(nbruntime.servers()) == 1
    del runtime
    gc.collect()
    assert pid is not None
    await_gone([pid])


def test_cell_run_again_releases_its_earlier_phases() -> None:
    class Observer:
        def __call__(self, phase: Phase) -> None: ...

    observers: weakref.WeakSet[Observer] = weakref.WeakSet()
    for _ in range(5):
        runtime = start(name="chat", reuse=True)
        observer = Observer()
        observers.add(observer)
        runtime.phases.subscribe(observer)
        del observer
    gc.collect()
    assert len(observers) == 1
    runtime.shutdown()


@pytest.mark.filterwarnings("ignore:The same server runs already")
def test_server_without_a_name_is_reused_by_its_arguments() -> None:
    first = start(reuse=True)
    assert start(reuse=True).pid == first.pid
    other = start(reuse=True, env={"A": "1"})
    assert other.pid != first.pid
    assert start(reuse=True, env={"A": "1"}).pid == other.pid
    assert start().pid not in (first.pid, other.pid)


def said_of_the_same(make: Callable[[], object]) -> list[str]:
    """What is said while servers are started by a line, as once in a cell or a program."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        keep = make()
    del keep
    ours = [one for one in caught if one.category is SameServerWarning]
    assert all(Path(one.filename).name == "fake_engine.py" for one in ours)  # where `start` calls Runtime
    return [str(one.message) for one in ours]


def test_second_launch_of_an_unnamed_server_is_said_once() -> None:
    several: list[Runtime] = []
    [said] = said_of_the_same(lambda: several.extend(start(say=["x"]) for _ in range(3)))
    first = several[0]
    assert said == (
        f"The same server runs already: fake ({first.url}). Runtime(..., reuse=True) takes it instead of "
        "starting another one; nbruntime.stop('fake') ends it."
    )
    assert said_of_the_same(lambda: start(say=["x"])) == [said]  # the next cell says it again
    for arguments in ({"say": ["y"]}, {"reuse": True}, {"name": "chat"}):
        assert said_of_the_same(lambda options=arguments: start(**{"say": ["x"], **options})) == []
    del first
    several.clear()
    gc.collect()
    await_true(lambda: not nbruntime.servers())
    assert said_of_the_same(lambda: start(say=["x"])) == []


def test_second_launch_beside_a_named_one_or_one_of_another_kernel_is_not_said() -> None:
    with start(name="chat"), start_elsewhere(f"{CELL}\nprint(flush=True)\ninput()") as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert len(nbruntime.servers()) == 2
        assert said_of_the_same(start) == []
        other.communicate("\n", timeout=30)


def test_second_launch_beside_a_kept_one_is_said() -> None:
    run_elsewhere('Runtime(engine="fake", port=0, keep_alive=True)')
    [said] = said_of_the_same(lambda: start(keep_alive=True))
    assert "reuse=True" in said
    assert said_of_the_same(start) == []  # it would not take the kept one


def test_second_launch_and_list_say_what_holds_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with notebook_shell(tmp_path) as shell:
        shell.push({"start": start})
        shell.run_cell("runtime = start()\nruntime", store_history=True).raise_error()
        first = shell.user_ns["runtime"]
        assert nbruntime.servers()[0].held_by == "runtime, Out[1]"
        shell.run_cell("del runtime", store_history=True).raise_error()
        assert "held by\n" in repr(nbruntime.servers())
        assert "<td>Out[1]</td>" in nbruntime.servers()._card().html()
        [said] = said_of_the_same(start)
        assert said.startswith(f"The same server runs already: fake ({first.url}), held by Out[1]. ")
        shell.run_cell("panel = Out[1].panel()").raise_error()
        assert nbruntime.servers()[0].held_by == "panel, Out[1]"
        shell.run_cell("panel.close()\ndel panel").raise_error()
        shell.run_cell("%reset -f out").raise_error()
        assert "held by" not in repr(nbruntime.servers())


def test_eight_threads_share_one_server() -> None:
    runtimes: list[Runtime] = []
    threads = [
        threading.Thread(target=lambda: runtimes.append(start(name="chat", reuse=True))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runtimes) == 8
    assert len({runtime.pid for runtime in runtimes}) == 1


def test_server_that_another_thread_starts_does_not_block_others(monkeypatch: pytest.MonkeyPatch) -> None:
    popen, began, gate = subprocess.Popen, threading.Event(), threading.Event()

    def slow(*arguments: Any, **options: Any) -> Any:
        if threading.current_thread() is starter:
            began.set()
            gate.wait(10)
        return popen(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", slow)
    started: list[Runtime] = []
    starter = threading.Thread(target=lambda: started.append(start(env={"A": "1"})))
    starter.start()
    began.wait(10)
    [folder] = server_folders()
    name = folder.rpartition("-")[0]
    with start(reuse=True) as other:
        assert other.name != name
    with pytest.raises(ArgumentValueError, match="runs already"):
        start(name=name)
    gate.set()
    starter.join(10)
    assert [(one.name, one.phase) for one in started] == [(name, "ready")]


def test_four_processes_share_one_kept_server() -> None:
    cell = 'print(Runtime(engine="fake", port=0, name="kept", keep_alive=True, reuse=True).pid)'
    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.extend(run_elsewhere(cell))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    assert len(set(answers)) == 1


def test_taken_name_is_an_error_with_a_hint() -> None:
    first = start(name="chat")
    with pytest.raises(ArgumentValueError, match=r"'chat' runs already(.|\n)*reuse=True(.|\n)*replace=True"):
        start(name="chat")
    assert first.phase == "ready"


def test_different_arguments_are_listed() -> None:
    first = start(name="chat", env={"A": "1", "B": "2"}, say=["x"])
    with pytest.raises(ArgumentValueError) as caught:
        start(name="chat", env={"A": "2", "B": "2"}, say=["y"], children=1, keep_alive=True, reuse=True)
    assert str(caught.value).splitlines()[0] == (
        "The server 'chat' runs with other arguments: "
        "children: not given, now 1; keep_alive: False, now True; "
        f"say: ['x'], now ['y']; env['A'] ({first.url})"
    )
    with pytest.raises(ArgumentValueError, match=f"port: {first.port}, now 47329"):
        start(name="chat", env={"A": "1", "B": "2"}, say=["x"], port=47329, reuse=True)
    assert (
        start(name="chat", env={"A": "1", "B": "2"}, say=["x"], port=first.port, reuse=True).pid == first.pid
    )


def test_relative_and_absolute_model_paths_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "said").touch()
    monkeypatch.chdir(tmp_path)
    first = start(name="chat", fail=None, pids="said")
    monkeypatch.chdir("/")
    assert start(name="chat", pids=str(tmp_path / "said"), reuse=True).pid == first.pid


def test_replace_stops_the_old_server_first() -> None:
    first = start(name="chat", ignore_sigterm=True)
    old = first.pid
    with start(name="chat", children=1, port=first.port, replace=True) as second:
        assert old is not None
        assert not alive(old)
        assert (second.name, second.port, first.phase) == ("chat", first.port, "stopped")
        assert start(name="chat", children=1, reuse=True, replace=True).pid == second.pid
        third = start(name="chat", reuse=True, replace=True)
        assert second.phase == "stopped"
        assert third.phase == "ready"


def test_server_of_another_kernel_is_neither_reused_nor_stopped() -> None:
    first = start(name="chat")
    for option in ("reuse", "replace"):
        code = f"""
        try:
            Runtime(engine="fake", port=0, name="chat", {option}=True)
        except ValueError as error:
            print(error)
        """
        said = run_elsewhere(code)
        assert said[0] == (
            f"The name 'chat' belongs to a server of another kernel, process {os.getpid()} ({first.url})"
        )
        assert "nbruntime.stop('chat')" in said[1]
    assert first.phase == "ready"


def test_dead_server_is_not_reused() -> None:
    first = start(name="chat")
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    second = start(name="chat", reuse=True)
    assert second.pid != first.pid
    assert json.loads(second.generate("Hi"))["text"] == "Hello world, grüße!"
    first.shutdown()
    assert second.phase == "ready"
