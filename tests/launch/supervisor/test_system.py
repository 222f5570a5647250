"""Processes, trees, pipes and locks, as the supervisor asks Linux for them."""

from __future__ import annotations

import multiprocessing
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.fake_engine import alive, await_true

from nbruntime.launch.supervisor import processes, system, tree
from nbruntime.launch.supervisor.processes import ProcessId, identify

SLEEPER = (sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)")


# Processes


def test_start_time_tells_processes_apart_and_does_not_change() -> None:
    first = identify(os.getpid())
    assert first is not None
    assert first == identify(os.getpid())
    with subprocess.Popen(SLEEPER) as process:
        other = identify(process.pid)
        assert other is not None
        assert processes.is_running(other)
        assert not processes.is_running(ProcessId(other.pid, first.start))
        process.kill()
    assert not processes.is_running(other)
    assert identify(other.pid) is None


def test_zombie_does_not_count_as_running() -> None:
    process = subprocess.Popen(["true"])
    await_true(lambda: identify(process.pid) is None)
    entry = system.read_entry(process.pid)
    assert entry is not None
    assert entry.ended
    process.wait()


@pytest.mark.parametrize("pidfd", [True, False])
def test_process_with_a_reused_pid_is_not_signalled(pidfd: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open")
    with subprocess.Popen(SLEEPER) as process:
        who = identify(process.pid)
        assert who is not None
        assert not processes.send(ProcessId(who.pid, "another time"), signal.SIGKILL)
        assert processes.wait_for_end(ProcessId(who.pid, "another time"))
        assert not processes.wait_for_end(who, 0.1)
        assert alive(who.pid)
        assert processes.send(who, signal.SIGTERM)
        assert processes.wait_for_end(who, 10)
    assert not processes.send(who, signal.SIGTERM)


# Starting


def test_server_starts_in_its_own_session_with_default_signals() -> None:
    assert set(system.server_session()) == {"start_new_session", "preexec_fn"}


@pytest.mark.parametrize("subreaper", [True, False])
def test_tree_with_and_without_a_subreaper(subreaper: bool) -> None:
    """Members of the server's session are found when their parent has ended."""
    # In a process of its own: a tree takes all children of its process for the server's.
    process = multiprocessing.get_context("spawn").Process(target=_end_a_tree, args=(subreaper,))
    process.start()
    process.join(60)
    assert process.exitcode == 0


def _end_a_tree(subreaper: bool) -> None:
    if not subreaper:
        system.ctypes = None  # type: ignore[assignment]
    say = "print(os.getpid(), flush=True)\n"
    code = f"import os, time\n{say}if os.fork(): os._exit(0)\n{say}time.sleep(600)"
    started = tree.ProcessTree([sys.executable, "-I", "-S", "-c", code], None, dict(os.environ), [])
    pids = [int(started.output.readline()), int(started.output.readline())]
    assert pids[0] == started.pid

    def ended() -> bool:
        started.collect()
        return started.exit_code is not None

    await_true(ended)
    if not subreaper:
        assert not started.gone
    started.kill()
    await_true(lambda: not any(alive(pid) for pid in pids))
    started.collect()
    assert started.gone
    started.output.close()


# Waiting


def test_channel_can_be_waited_for() -> None:
    read_end, write_end = os.pipe()
    channel = system.Channel(read_end)
    assert channel.fileno() == read_end
    with selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ)
        assert channel.read(100) is None
        assert selector.select(0) == []
        os.write(write_end, b"stop\n")
        assert selector.select(5)
        assert channel.read(100) == b"stop\n"
        assert channel.read(100) is None
        os.close(write_end)
        assert selector.select(5)
        assert channel.read(100) == b""


# Files


def test_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def enter() -> None:
        with system.exclusive(str(tmp_path / "lock")):
            inside.append(1)
            most.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=lambda: [enter() for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(most) == 200


def test_fork_does_not_keep_the_lock(tmp_path: Path) -> None:
    lock = str(tmp_path / "lock")
    with system.exclusive(lock):
        child = subprocess.Popen(SLEEPER, close_fds=False)
        forked = os.fork()
        if forked == 0:
            signal.pause()
    with system.exclusive(lock):
        pass
    for pid in (child.pid, forked):
        os.kill(pid, signal.SIGKILL)
    child.wait()
    os.waitpid(forked, 0)


def test_machine_keeps_its_name_when_its_host_gets_another(monkeypatch: pytest.MonkeyPatch) -> None:
    name = system.machine()
    assert name
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    assert system.machine() == name


def test_machine_without_a_boot_id_has_its_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "_boot", lambda: "")
    assert system.machine().startswith(socket.gethostname())
