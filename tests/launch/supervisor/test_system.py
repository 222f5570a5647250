"""What differs between operating systems, as far as Linux can pretend to be another one."""

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

from nbruntime.launch.engines.embedded import EmbeddedServerKind
from nbruntime.launch.engines.server_kind import AcceptedArguments
from nbruntime.launch.ports import claim_port
from nbruntime.launch.process import PROGRAM
from nbruntime.launch.supervisor import processes, system, tree
from nbruntime.launch.supervisor.launch_spec import LaunchSpec
from nbruntime.launch.supervisor.processes import ProcessId, identify

SLEEPER = (sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)")


def answer(monkeypatch: pytest.MonkeyPatch, output: str) -> list[list[str]]:
    """Have every program that is run print something; gives the commands."""
    commands: list[list[str]] = []

    def run(command: list[str]) -> tuple[int, str]:
        commands.append(command)
        return 1, output

    monkeypatch.setattr(system, "_run", run)
    return commands


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


def test_process_that_nobody_has_collected_does_not_run() -> None:
    process = subprocess.Popen(["true"])
    await_true(lambda: identify(process.pid) is None)
    entry = system.read_entry(process.pid)
    assert entry is not None
    assert entry.ended
    process.wait()


@pytest.mark.parametrize("pidfd", [True, False])
def test_only_the_very_process_is_signalled(pidfd: bool, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_processes_of_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "NAME", "darwin")
    me = os.getpid()
    commands = answer(
        monkeypatch,
        f"    1    {me} R    Wed Jun  4 10:00:02 2025\n{me:5}     1 S+   Wed Jun  4 10:00:00 2025    \n"
        "99999     1 Z    Wed Jun  4 10:00:01 2025\n",
    )
    table = system.read_processes()
    assert commands[0][0] == "ps"
    assert 1 not in table, "the listing itself is no child"
    assert table[me] == system.ProcessEntry(1, os.getsid(0), False, "Wed Jun  4 10:00:00 2025")
    assert table[99999].ended
    assert identify(me) == ProcessId(me, "Wed Jun  4 10:00:00 2025")


def test_marked_processes_of_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "NAME", "darwin")
    answer(
        monkeypatch,
        "  7 python server.py HOME=/Users/x NBRUNTIME_SERVER=/run/x\n  8 vi NBRUNTIME_SERVER=/run/xy\n",
    )
    assert list(system.pids_with("NBRUNTIME_SERVER=/run/x")) == [7]


def test_real_ps_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    before = system.read_processes()[os.getpid()]
    monkeypatch.setattr(system, "NAME", "darwin")
    entry = system.read_processes()[os.getpid()]
    assert (entry.parent, entry.session, entry.ended) == (before.parent, before.session, before.ended)


def test_start_time_is_the_same_in_another_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "NAME", "darwin")
    monkeypatch.setenv("TZ", "Europe/Berlin")
    before = identify(os.getpid())
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert identify(os.getpid()) == before


def test_processes_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "NAME", "win32")
    commands = answer(monkeypatch, "4 0\r\n4242 4\r\n\r\n")
    assert system.read_processes() == {
        4: system.ProcessEntry(0, 0, False, ""),
        4242: system.ProcessEntry(4, 0, False, ""),
    }
    assert commands[0][0] == "powershell"
    assert list(system.pids_with("NBRUNTIME_SERVER=x")) == []


# Starting


def test_options_of_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    assert system.new_session() == {"start_new_session": True}
    assert set(system.server_session()) == {"start_new_session", "preexec_fn"}
    monkeypatch.setattr(system, "NAME", "win32")
    assert system.new_session() == system.server_session() == {"creationflags": 0x200}


def test_without_sockets_to_hand_over_the_server_binds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "NAME", "win32")
    assert not system.hands_over_sockets()
    with claim_port("127.0.0.1", 0, listen=system.hands_over_sockets()) as claim:
        assert (claim.listener, claim.reservation) == (None, None)
        command = EmbeddedServerKind(sys.executable).command(AcceptedArguments({}, (), {}), claim)
    assert command.sockets == ()
    assert command.argv[-2:] == ("--host=127.0.0.1", f"--port={claim.port}")


@pytest.mark.parametrize("name", ["linux", "darwin"])
def test_tree_of_a_system_without_subreapers(name: str) -> None:
    """Members of the server's session are found when their parent has ended."""
    # In a process of its own: a tree takes all children of its process for the server's.
    process = multiprocessing.get_context("spawn").Process(target=_end_a_tree, args=(name,))
    process.start()
    process.join(60)
    assert process.exitcode == 0


def _end_a_tree(name: str) -> None:
    system.NAME = name
    say = "print(os.getpid(), flush=True)\n"
    code = f"import os, time\n{say}if os.fork(): os._exit(0)\n{say}time.sleep(600)"
    started = tree.start_tree([sys.executable, "-I", "-S", "-c", code], None, dict(os.environ), [])
    pids = [int(started.output.readline()), int(started.output.readline())]
    assert pids[0] == started.pid

    def ended() -> bool:
        started.collect()
        return started.exit_code is not None

    await_true(ended)
    if name == "darwin":
        assert not started.gone
    started.kill()
    await_true(lambda: not any(alive(pid) for pid in pids))
    started.collect()
    assert started.gone
    started.output.close()


def test_job_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tree asks of a job object; the object itself is of Windows alone."""
    calls: list[str] = []

    class Job:
        def __init__(self, process: subprocess.Popen[bytes]) -> None:
            self.process = process

        def kill(self) -> None:
            calls.append("kill")
            self.process.kill()

    monkeypatch.setattr(system, "Job", Job)
    monkeypatch.setattr(system, "NAME", "win32")
    monkeypatch.setattr(system, "server_session", dict)
    started = tree.start_tree(SLEEPER, None, dict(os.environ), [])
    assert isinstance(started, tree.JobTree)
    started.collect()
    assert (started.exit_code, started.gone) == (None, False)
    started.ask()  # here a SIGTERM
    await_true(lambda: started.collect() or started.gone)
    assert started.exit_code == -signal.SIGTERM
    assert calls == ["kill"]
    started.output.close()


# Waiting


@pytest.mark.parametrize("name", ["linux", "win32"])
def test_channel_can_be_waited_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "NAME", name)
    read_end, write_end = os.pipe()
    channel = system.Channel(read_end)
    assert (channel.fileno() == read_end) == (name == "linux")
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


def test_supervisor_of_windows_hears_its_owner(tmp_path: Path) -> None:
    """The supervisor with Windows' channels, wake-up and tree; its job is a stand-in of one process."""
    pretend = f"""
import runpy, sys
sys.argv = ["supervisor"]
sys.path.append({str(Path(PROGRAM).parents[1])!r})
from supervisor import system
system.NAME = "win32"
system.server_session = dict
system.read_entry = lambda pid: None
class Job:
    def __init__(self, process): self.kill = process.kill
system.Job = Job
from supervisor.__main__ import main
main()
"""
    folder = tmp_path / "folder"
    folder.mkdir()
    order = LaunchSpec(
        owner=os.getpid(), argv=list(SLEEPER), directory=str(folder), log=str(folder / "log"), grace=0.2
    )
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", pretend], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(order.to_line())
        process.stdin.flush()
        assert b'"started"' in process.stdout.readline()
        process.stdin.close()
        assert [line.split(b'"')[3] for line in process.stdout] == [b"exited", b"gone"]
    assert not folder.exists()


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


def test_machine_without_a_boots_name_has_its_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "_boot", lambda: "")
    assert system.machine().startswith(socket.gethostname())


def test_boot_of_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "NAME", "darwin")
    commands = answer(monkeypatch, "4C0D5B5E-BA51-4D5C-9B3B-0F2A7A3C6E11\n")
    assert system._boot.__wrapped__() == "4C0D5B5E-BA51-4D5C-9B3B-0F2A7A3C6E11"
    assert commands[0][0] == "sysctl"
