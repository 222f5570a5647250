"""Stopping servers by name, by URL, and all of them."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from support.fake_engine import alive, await_true, run_elsewhere, server_folders, start

import nbruntime
from nbruntime.errors import ArgumentValueError, LaunchError
from nbruntime.launch import registry


def test_stop_by_name_and_by_url_in_this_kernel() -> None:
    first, second = start(name="one"), start(name="two")
    assert [one.name for one in nbruntime.stop("one")] == ["one"]
    assert (first.phase, second.phase) == ("stopped", "ready")
    assert [one.name for one in nbruntime.stop(second.url + "/")] == ["two"]
    assert nbruntime.stop("all") == []


def test_stop_of_an_unknown_name_lists_the_running_servers() -> None:
    with pytest.raises(ArgumentValueError, match="Names of servers that run: none"):
        nbruntime.stop("chat")
    with start(name="one"), pytest.raises(ArgumentValueError, match=r"no server 'chat'(.|\n)*run: 'one'"):
        nbruntime.stop("chat")


def test_stop_all_asks_all_before_it_waits() -> None:
    runtimes = [start(ignore_sigterm=True) for _ in range(3)]
    pids = [runtime.pid for runtime in runtimes]
    began = time.monotonic()
    assert len(nbruntime.stop("all")) == 3
    print(f"three that ignore SIGTERM: {time.monotonic() - began:.2f} s")
    assert not any(alive(pid) for pid in pids if pid)


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
