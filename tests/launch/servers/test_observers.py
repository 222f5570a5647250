"""The phases of a launch as observers see them."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from support.fake_engine import await_true, server_folders, start

import nbruntime
from nbruntime.errors import LaunchError
from nbruntime.launch.phases import Phase, Phases
from nbruntime.launch.process import ServerProcess
from nbruntime.launch.supervisor.launch_spec import LaunchSpec


def test_observers_of_every_thread_see_every_phase_in_order() -> None:
    phases = Phases()
    seen: list[list[str]] = [[] for _ in range(4)]
    for names in seen:
        phases.subscribe(lambda phase, names=names: names.append(phase.name))
    threads = [
        threading.Thread(target=lambda n=n: [phases.enter(Phase(f"{n} {i}")) for i in range(200)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(names) == 801 for names in seen)
    assert seen[0] == seen[1] == seen[2] == seen[3] == [name for name, _ in phases.history]


def test_failing_observer_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    phases = Phases()
    seen: list[str] = []
    phases.subscribe(lambda phase: 1 // 0)
    forget = phases.subscribe(lambda phase: seen.append(phase.name))
    with start(progress=phases) as runtime:
        assert runtime.phases is phases
    await_true(lambda: seen[-1] == "stopped")
    forget()
    phases.enter(Phase("nobody hears"))
    assert seen == ["starting", "starting", "loading weights", "ready", "stopped"]
    assert "An observer failed at the phase ready" in caplog.text


def test_failed_launch_is_a_phase() -> None:
    phases = Phases()
    with pytest.raises(LaunchError):
        start(progress=phases, fail="no")
    assert [name for name, _ in phases.history] == ["starting", "loading weights", "failed"]


def test_server_that_dies_while_connecting_is_a_launch_error() -> None:
    with pytest.raises(LaunchError, match=r"MemoryError: no room \(it exited with code 3\)") as caught:
        start(fail_asked="MemoryError: no room")
    assert "MemoryError: no room" in caught.value.log_lines
    assert server_folders() == []


def test_death_of_the_server_is_a_phase() -> None:
    runtime = start()
    seen: list[str] = []
    runtime.phases.subscribe(lambda phase: seen.append(phase.name))
    assert runtime.pid is not None
    os.kill(runtime.pid, signal.SIGKILL)
    await_true(lambda: seen == ["ready", "died"])


def test_server_process_without_runtime_is_registered() -> None:
    process = ServerProcess(LaunchSpec(("sleep", "600")))
    assert [one.name for one in nbruntime.servers()] == ["server"]
    process.stop()
    assert nbruntime.servers() == []
