"""Stopping servers by name, by URL, and all of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fake_engine import alive, await_true, run_elsewhere, server_folders, start, start_elsewhere

import nbruntime
from nbruntime.errors import ArgumentTypeError, ArgumentValueError, LaunchError
from nbruntime.launch import registry


def test_stop_by_name_and_by_url_in_this_kernel() -> None:
    first, second = start(name="one"), start(name="two")
    assert [one.name for one in nbruntime.stop("one")] == ["one"]
    assert (first.phase, second.phase) == ("stopped", "ready")
    assert [one.name for one in nbruntime.stop(second.url + "/")] == ["two"]
    assert nbruntime.stop("all") == []


def test_stop_of_an_unknown_name_lists_the_running_servers() -> None:
    with pytest.raises(ArgumentValueError, match="Running servers: none"):
        nbruntime.stop("chat")
    with (
        start(name="one"),
        pytest.raises(ArgumentValueError, match=r"server 'chat'\nRunning servers: 'one'"),
    ):
        nbruntime.stop("chat")


def test_stop_of_an_object_says_how_to_name_it() -> None:
    with start(name="one") as runtime:
        for wrong in (runtime, nbruntime.servers()[0], None, 30000):
            with pytest.raises(ArgumentTypeError, match=f"type {type(wrong).__name__}, (.|\n)*runtime.url"):
                nbruntime.stop(wrong)  # type: ignore[arg-type]
        assert runtime.phase == "ready"


def test_stop_all_asks_all_before_it_waits() -> None:
    runtimes = [start(ignore_sigterm=True) for _ in range(3)]
    pids = [runtime.pid for runtime in runtimes]
    began = time.monotonic()
    assert len(nbruntime.stop("all")) == 3
    print(f"three that ignore SIGTERM: {time.monotonic() - began:.2f} s")
    assert not any(alive(pid) for pid in pids if pid)


@pytest.fixture
def other_kernel() -> Iterator[list[int]]:
    """A process that runs as the kernel of a notebook, with a server and a kept one; their pids."""
    script = """
        first = Runtime(engine="fake", port=0, name="theirs")
        second = Runtime(engine="fake", port=0, name="kept", keep_alive=True)
        print(first.pid, second.pid, flush=True)
        input()
        """
    notebook = os.environ | {"JPY_SESSION_NAME": "/notebooks/report.ipynb"}
    with start_elsewhere(script, notebook) as process:
        assert process.stdout is not None
        yield [int(pid) for pid in process.stdout.readline().split()]
        process.communicate("\n", timeout=30)


@pytest.mark.parametrize("words", [(), ("all",)], ids=["no word", "all"])
def test_stop_leaves_the_servers_of_other_kernels(other_kernel: list[int], words: tuple[str, ...]) -> None:
    own, kept = start(name="one"), start(name="two", keep_alive=True)
    attached = start(name="kept", keep_alive=True, reuse=True)
    ended = nbruntime.stop(*words)
    assert [one.name for one in ended] == ["one", "two"]
    assert (own.phase, kept.phase, attached.phase) == ("stopped", "stopped", "ready")
    assert all(alive(pid) for pid in other_kernel)
    for said in (repr(ended), ended._card().html(), repr(nbruntime.stop()), nbruntime.stop()._card().html()):
        assert "Left running, since this kernel did not start them: theirs, kept." in said


def test_stop_everywhere_says_whose_servers_it_ended(other_kernel: list[int]) -> None:
    own = start(name="one")
    assert [(one.name, one.whose) for one in nbruntime.servers()] == [
        ("theirs", "another kernel: report.ipynb"),
        ("kept", "another kernel, kept: report.ipynb"),
        ("one", "this kernel"),
    ]
    ended = nbruntime.stop("everywhere")
    assert sorted(one.name for one in ended) == ["kept", "one", "theirs"]
    assert repr(ended).count("another kernel") == repr(ended).count("report.ipynb") == 2
    assert own.phase == "stopped"
    assert not any(alive(pid) for pid in other_kernel)
    assert nbruntime.servers() == []


def test_stop_in_a_thread_ends_and_in_a_fork_leaves_the_servers_of_the_kernel() -> None:
    runtime = start(name="one")
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(nbruntime.stop) == []
        assert [one.owner for one in pool.apply(nbruntime.servers)] == ["another kernel"]
    assert runtime.phase == "ready"
    thread = threading.Thread(target=nbruntime.stop)
    thread.start()
    thread.join(30)
    assert runtime.phase == "stopped"


def test_stop_of_a_server_whose_supervisor_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "STOP_SECONDS", 0.3)
    [line] = run_elsewhere(
        """
        runtime = Runtime(engine="fake", port=0, name="kept", keep_alive=True, children=1)
        print(runtime.pid, runtime._server.supervisor_pid)
        """
    )
    server, supervisor = map(int, line.split())
    os.kill(supervisor, signal.SIGSTOP)
    nbruntime.stop("kept")
    assert not any(alive(pid) for pid in (server, supervisor))
    assert server_folders() == []


def test_stop_of_a_server_during_its_launch(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    errors: list[BaseException] = []

    def launch() -> None:
        try:
            start(name="slow", gate=str(gate))
        except LaunchError as error:
            errors.append(error)

    thread = threading.Thread(target=launch)
    thread.start()
    await_true(lambda: any(one.pid for one in nbruntime.servers()))
    nbruntime.stop("slow")
    thread.join(10)
    [error] = errors
    assert "was stopped before it was ready" in str(error)
