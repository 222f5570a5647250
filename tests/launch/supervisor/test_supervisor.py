"""The supervisor and the owner's side of it: nothing outlives its owner, and nothing is hurt before."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.fake_engine import SERVER, alive, await_gone, await_true, read_pids

from nbruntime.errors import LaunchError
from nbruntime.launch.process import PROGRAM, ServerProcess
from nbruntime.launch.supervisor import supervisor as supervision
from nbruntime.launch.supervisor import system
from nbruntime.launch.supervisor.capped_log import CappedLog
from nbruntime.launch.supervisor.launch_spec import LaunchSpec

SLEEPER = (sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)")


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-u", "-c", textwrap.dedent(code))


@pytest.fixture
def started() -> Iterator[list[ServerProcess]]:
    """Processes to be stopped at the end whatever happens."""
    processes: list[ServerProcess] = []
    yield processes
    for process in processes:
        process.stop()


@pytest.fixture
def pids_file(tmp_path: Path) -> Path:
    return tmp_path / "pids"


def fake(*flags: str) -> LaunchSpec:
    return LaunchSpec((sys.executable, "-I", str(SERVER), *flags))


# The log


def test_log_keeps_its_head_and_its_tail_below_the_limit(tmp_path: Path) -> None:
    log = CappedLog(str(tmp_path / "log"), 10_000)
    biggest = 0
    for number in range(2_000):
        log.write(b"line %d\n" % number)
        biggest = max(biggest, (tmp_path / "log").stat().st_size)
    log.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert biggest <= 10_000
    assert lines[0] == "line 0"
    assert lines[-1] == "line 1999"
    assert re.fullmatch(r"\.\.\. \d+ bytes left out \.\.\.", next(line for line in lines if "..." in line))
    numbers = [int(line.split()[1]) for line in lines if line.startswith("line")]
    assert numbers == sorted(set(numbers)), "every line is whole, and none comes twice"


def test_output_is_masked_and_watched_across_reads(started: list[ServerProcess]) -> None:
    process = ServerProcess(
        LaunchSpec(
            python(
                """
                import sys, time
                for piece in ("the key is hun", "ter2!\\npha", "se: one\\r", "phase: hunter2\\nrest"):
                    sys.stdout.write(piece); sys.stdout.flush(); time.sleep(0.02)
                """
            ),
            watch="^phase: ",
            secrets=("hunter2",),
        )
    )
    started.append(process)
    assert process.wait(10) == 0
    lines = []
    while (line := process.next_line(0)) is not None or not lines:
        if line is not None:
            lines.append(line)
    assert lines == ["phase: one", "phase: ***"]
    assert process.logs() == "the key is ***!\nphase: ***\nrest"


def watched(process: ServerProcess) -> list[str]:
    """The lines that a process has had watched until its end."""
    assert process.wait(10) is not None
    lines = []
    while not process._handle.lines.empty():
        lines.append(process.next_line(0))
    return [line for line in lines if line is not None]


def test_watched_lines_are_masked_and_short_keys_are_not(started: list[ServerProcess]) -> None:
    code = "print('phase: one of phases'); print('the key is phases-and-more, phases')"
    secrets = ("phase", "e", "", "phases-and-more")
    started.append(process := ServerProcess(LaunchSpec(python(code), watch="^phase: ", secrets=secrets)))
    assert watched(process) == ["***: one of ***s"]
    assert process.logs() == "***: one of ***s\nthe key is ***, ***s"


@pytest.mark.parametrize("character", ["x", "\N{GRINNING FACE}", "\x00", '"'])
def test_event_of_a_long_line_fits_into_the_smallest_pipe(
    character: str, started: list[ServerProcess]
) -> None:
    code = f"for n in range(50): print('phase:', {character!r} * 3000)\nprint('phase: last')"
    started.append(process := ServerProcess(LaunchSpec(python(code), watch="^phase: ")))
    *lines, last = watched(process)
    assert len(lines) == 50
    for line in lines:
        assert set(line.removeprefix("phase: ")) == {character}
        assert len(json.dumps({"event": "line", "text": line}) + "\n") <= 512
    assert last == "phase: last"


def test_incomplete_event_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "supervisor.py"
    program.write_text(
        """print('{"event": "started", "pid": 7}\\n{"event": "li\\n{"event": "exited", "code": 5}')"""
    )
    monkeypatch.setattr("nbruntime.launch.process.PROGRAM", str(program))
    process = ServerProcess(LaunchSpec(("server",)))
    assert (process.wait(10), process.pid) == (5, 7)


def test_logs_are_readable_during_and_after_the_run(started: list[ServerProcess]) -> None:
    process = ServerProcess(
        LaunchSpec(python("for n in range(30000): print('line', n)\nimport time; time.sleep(600)"))
    )
    started.append(process)
    await_true(lambda: process.logs(1) == "line 29999")
    assert process.logs(3).split("\n") == ["line 29997", "line 29998", "line 29999"]
    assert process.logs(0) == ""
    assert len(process.logs().split("\n")) == 30000
    process.stop()
    assert process.logs(2) == "line 29998\nline 29999"


def test_much_output_does_not_block_the_server(started: list[ServerProcess]) -> None:
    process = ServerProcess(LaunchSpec(python("for n in range(400): print('x' * 100_000)\nprint('done')")))
    started.append(process)
    assert process.wait(60) == 0
    assert process.logs(1) == "done"
    assert len(process.logs()) < 9 << 20


# Starting and ending


def test_start_and_stop_take_little_time(started: list[ServerProcess]) -> None:
    took = []
    for _ in range(3):
        start = time.perf_counter()
        process = ServerProcess(LaunchSpec(SLEEPER))
        started.append(process)
        middle = time.perf_counter()
        process.stop()
        took.append((middle - start, time.perf_counter() - middle))
    launch, stop = min(took, key=sum)
    worst = max(map(sum, took))
    print(f"launch {launch * 1e3:.0f} ms, stop {stop * 1e3:.0f} ms, both at worst {worst * 1e3:.0f} ms")
    assert launch + stop < 1


def test_command_that_does_not_exist_is_a_launch_error() -> None:
    with pytest.raises(LaunchError, match=r"cannot be executed.*No such file"):
        ServerProcess(LaunchSpec(("/no/such/server",)))


@pytest.mark.parametrize(
    "command",
    [
        LaunchSpec(("true", "a\0b")),
        LaunchSpec(("true",), {"A": "\0"}),
        LaunchSpec(("true",), {"A=": "b"}),
    ],
)
def test_command_that_cannot_be_executed_is_a_launch_error(command: LaunchSpec) -> None:
    with pytest.raises(LaunchError, match=r"cannot be executed: (embedded null|illegal environment)"):
        ServerProcess(command)


@pytest.mark.parametrize(
    ("code", "exit_code", "cause"),
    [
        ("raise SystemExit(7)", 7, "exited with code 7"),
        (
            "import os; os.kill(os.getpid(), 9)",
            -9,
            "killed by SIGKILL, as when the machine runs out of memory",
        ),
        ("import os; os.abort()", -6, "killed by SIGABRT"),
    ],
)
def test_exit_code_and_cause_are_reported(
    code: str, exit_code: int, cause: str, started: list[ServerProcess]
) -> None:
    process = ServerProcess(LaunchSpec(python(code)))
    started.append(process)
    assert process.wait(10) == exit_code
    assert cause in process.exit_cause()


def test_environment_variables_are_added_and_removed(
    monkeypatch: pytest.MonkeyPatch, started: list[ServerProcess]
) -> None:
    monkeypatch.setenv("INHERITED", "yes")
    monkeypatch.setenv("REMOVED", "yes")
    process = ServerProcess(
        LaunchSpec(
            python("import os; print([os.environ.get(n) for n in ('INHERITED', 'REMOVED', 'ADDED')])"),
            env={"REMOVED": None, "ADDED": "new"},
        )
    )
    started.append(process)
    process.wait(10)
    assert process.logs() == "['yes', None, 'new']"


def test_folder_of_the_server_is_private_and_removed_with_it(started: list[ServerProcess]) -> None:
    process = ServerProcess(LaunchSpec(python("import os; print(os.environ['NBRUNTIME_SERVER'])\ninput()")))
    started.append(process)
    process.wait(10)
    folder = Path(process.logs(100).split("\n")[0])
    assert not folder.exists()
    process = ServerProcess(LaunchSpec(SLEEPER))
    started.append(process)
    environ = Path(f"/proc/{process.pid}/environ")
    await_true(lambda: b"NBRUNTIME_SERVER=" in environ.read_bytes())
    found = re.search(rb"NBRUNTIME_SERVER=([^\0]*)", environ.read_bytes())
    assert found is not None
    folder = Path(found[1].decode())
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "server.log").stat().st_mode & 0o777 == 0o600
    process.stop()
    assert not folder.exists()


def test_stop_ends_the_whole_tree_and_can_be_repeated(pids_file: Path, started: list[ServerProcess]) -> None:
    process = ServerProcess(fake("--children=2", f"--pids={pids_file}"))
    started.append(process)
    pids = read_pids(pids_file)
    assert len(pids) == 3
    assert all(alive(pid) for pid in pids)
    process.stop()
    assert not any(alive(pid) for pid in [*pids, process.supervisor_pid])
    process.stop()
    assert process.gone


def test_server_that_ignores_sigterm_is_killed_after_the_grace(
    pids_file: Path, started: list[ServerProcess]
) -> None:
    process = ServerProcess(
        replace(fake("--ignore-sigterm", "--children=1", f"--pids={pids_file}"), grace=0.3)
    )
    started.append(process)
    pids = read_pids(pids_file)
    start = time.monotonic()
    process.stop()
    took = time.monotonic() - start
    print(f"gone after {took:.2f} s with a grace of 0.3 s")
    assert not any(alive(pid) for pid in pids)
    assert took >= 0.3


def test_children_are_killed_when_the_server_ends_by_itself(
    pids_file: Path, started: list[ServerProcess]
) -> None:
    process = ServerProcess(fake("--leave-child", f"--pids={pids_file}"))
    started.append(process)
    pids = read_pids(pids_file)
    assert process.wait(10) == 0
    assert not any(alive(pid) for pid in pids)


def test_orphaned_grandchildren_are_killed_with_the_server(
    started: list[ServerProcess], tmp_path: Path
) -> None:
    # A grandchild in its own session whose parent has ended: the supervisor, not init, is its parent now.
    file = tmp_path / "grandchild"
    process = ServerProcess(
        LaunchSpec(
            python(
                f"""
                import os, time
                if os.fork() == 0:
                    os.setsid()
                    if os.fork() == 0:
                        open({str(file)!r} + ".part", "w").write(str(os.getpid()))
                        os.rename({str(file)!r} + ".part", {str(file)!r})
                        time.sleep(600)
                    os._exit(0)
                time.sleep(600)
                """
            )
        )
    )
    started.append(process)
    [grandchild] = read_pids(file)
    process.stop()
    assert not alive(grandchild)


def test_collected_object_stops_its_server(pids_file: Path) -> None:
    process = ServerProcess(fake("--children=1", f"--pids={pids_file}"))
    pids = read_pids(pids_file)
    del process
    gc.collect()
    print(f"gone {await_gone(pids):.3f} s after the finalizer returned")


def test_server_outlives_the_thread_that_started_it(started: list[ServerProcess]) -> None:
    thread = threading.Thread(target=lambda: started.append(ServerProcess(LaunchSpec(SLEEPER))))
    thread.start()
    thread.join()
    [process] = started
    # Two of the supervisor's looks at its owner.
    assert process.wait(3 * supervision.OWNER_POLL) is None
    assert alive(process.pid)


def test_signals_of_the_owners_group_do_not_reach_the_server(started: list[ServerProcess]) -> None:
    process = ServerProcess(LaunchSpec(SLEEPER))
    started.append(process)
    sessions = {os.getsid(pid) for pid in (os.getpid(), process.supervisor_pid, process.pid)}
    assert len(sessions) == 3
    os.kill(process.supervisor_pid, signal.SIGINT)
    os.kill(process.supervisor_pid, signal.SIGHUP)
    assert process.wait(2 * supervision.OWNER_POLL) is None
    assert alive(process.pid)


def test_server_has_the_default_signals(started: list[ServerProcess]) -> None:
    process = ServerProcess(
        LaunchSpec(
            python(
                """
                import signal
                print(signal.getsignal(signal.SIGHUP) is signal.SIG_DFL,
                      signal.getsignal(signal.SIGINT) is signal.default_int_handler,
                      signal.pthread_sigmask(signal.SIG_BLOCK, []))
                """
            )
        )
    )
    started.append(process)
    process.wait(10)
    assert process.logs() == "True True set()"


def test_fork_of_the_owner_does_not_stop_the_server(started: list[ServerProcess]) -> None:
    process = ServerProcess(LaunchSpec(SLEEPER))
    started.append(process)
    child = os.fork()
    if child == 0:
        try:
            process.stop()
            process._finalizer()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert process.wait(2 * supervision.OWNER_POLL) is None
    assert alive(process.pid)


def test_server_ends_with_its_killed_supervisor(pids_file: Path, started: list[ServerProcess]) -> None:
    process = ServerProcess(fake("--ignore-sigterm", "--children=2", f"--pids={pids_file}"))
    started.append(process)
    pids = read_pids(pids_file)
    os.kill(process.supervisor_pid, signal.SIGKILL)
    took = await_gone(pids)
    print(f"gone after {took:.3f} s")
    assert process.wait(5) == -signal.SIGKILL


def test_children_without_an_environment_end_with_the_killed_supervisor(
    pids_file: Path, started: list[ServerProcess]
) -> None:
    """They do not carry the mark: as when a process writes its title over its environment."""
    process = ServerProcess(fake("--bare-children=2", f"--pids={pids_file}"))
    started.append(process)
    server, *bare = read_pids(pids_file)
    assert len(bare) == 2
    os.kill(process.supervisor_pid, signal.SIGKILL)
    await_gone([server, *bare])


@pytest.mark.parametrize("blocked", [set(), {signal.SIGTERM, signal.SIGCHLD}], ids=["", "blocked"])
def test_supervisor_stops_the_server_on_sigterm(
    blocked: set[signal.Signals], pids_file: Path, started: list[ServerProcess]
) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)  # which a child inherits
    try:
        process = ServerProcess(fake("--children=1", f"--pids={pids_file}"))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    started.append(process)
    pids = read_pids(pids_file)
    os.kill(process.supervisor_pid, signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM
    assert not any(alive(pid) for pid in pids)


# The end of the owner, without a kernel

OWNER = """
import os, signal, subprocess, sys, threading
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup, it is ignored
sys.path[:0] = {paths!r}
from nbruntime.launch.process import ServerProcess
from nbruntime.launch.supervisor.launch_spec import LaunchSpec
process = ServerProcess(LaunchSpec((
    sys.executable, "-I", {server!r}, "--children=1", "--pids={pids}", *{flags!r})))
while not os.path.exists({pids!r}):
    process.wait(0.01)
print(process.supervisor_pid, flush=True)
{end}
"""

ENDS = {
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM)",
    "SIGHUP": "os.kill(os.getpid(), signal.SIGHUP)",
    "segfault": "os.kill(os.getpid(), signal.SIGSEGV)",
    "_exit": "os._exit(0)",
    "exit": "sys.exit(0)",
    "exception": "raise RuntimeError('the end')",
    "SIGKILL with a live fork": """
if os.fork() == 0:
    # It holds the supervisor's stdin open: the end of the pipe never comes.
    open({pids!r} + ".part", "w").write(str(os.getpid()))
    os.rename({pids!r} + ".part", {pids!r} + ".fork")
    import time
    time.sleep(600)
while not os.path.exists({pids!r} + ".fork"):
    pass
os.kill(os.getpid(), signal.SIGKILL)
""",
    "SIGKILL after the starting thread": """
def start():
    global other
    other = ServerProcess(LaunchSpec((sys.executable, "-I", {server!r})))
thread = threading.Thread(target=start); thread.start(); thread.join()
os.kill(os.getpid(), signal.SIGKILL)
""",
    "SIGKILL with an ended child that nobody collects": """
left = subprocess.Popen([sys.executable, "-c", ""])
os.kill(os.getpid(), signal.SIGKILL)
""",
}


@pytest.mark.parametrize("flags", [(), ("--ignore-sigterm",)], ids=["polite", "ignores SIGTERM"])
@pytest.mark.parametrize("end", ENDS)
def test_process_tree_ends_with_its_owner(end: str, flags: tuple[str, ...], pids_file: Path) -> None:
    root = SERVER.parents[1]
    values = {"pids": str(pids_file), "server": str(SERVER), "paths": [str(root)], "flags": flags}
    code = OWNER.replace("{end}", ENDS[end]).format(**values)
    owner = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert owner.stdout is not None
    try:
        supervisor_pid = int(owner.stdout.readline())
        pids = [*read_pids(pids_file), supervisor_pid]
        owner.wait(10)
        took = await_gone(pids)
        print(f"{end}: gone {took:.2f} s after the end of the owner")
        # A second, and some for two busy cores.
        assert took < 5
    finally:
        owner.stdout.close()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int(pids_file.with_suffix(".fork").read_text()), signal.SIGKILL)


# The supervisor by itself, to hold each watch on its own


def supervise(tmp_path: Path, argv: tuple[str, ...], owner: int) -> subprocess.Popen[bytes]:
    folder = tmp_path / "folder"
    folder.mkdir()
    order = LaunchSpec(
        owner=owner, argv=list(argv), directory=str(folder), log=str(folder / "log"), grace=0.2
    )
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    process.stdin.write(order.to_line())
    process.stdin.flush()
    return process


def events_of(process: subprocess.Popen[bytes]) -> list[str]:
    assert process.stdout is not None
    return [json.loads(line)["event"] for line in process.stdout]


def test_supervisor_does_not_start_for_an_owner_that_is_not_its_parent(tmp_path: Path) -> None:
    with supervise(tmp_path, SLEEPER, owner=1) as process:
        assert events_of(process) == ["gone"]
    assert not (tmp_path / "folder").exists()


def test_end_of_stdin_stops_the_server(tmp_path: Path) -> None:
    with supervise(tmp_path, SLEEPER, owner=os.getpid()) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert json.loads(process.stdout.readline())["event"] == "started"
        process.stdin.close()
        assert events_of(process) == ["exited", "gone"]
        assert process.wait(10) == 0


def test_supervisor_without_a_launch_spec_ends() -> None:
    process = subprocess.run(
        [sys.executable, "-I", "-S", PROGRAM], stdin=subprocess.DEVNULL, capture_output=True
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, b"", b"")


def test_supervisor_does_not_block_on_a_full_event_pipe(tmp_path: Path) -> None:
    """An owner that is stopped reads no events; the server must still be able to write."""
    folder = tmp_path / "folder"
    folder.mkdir()
    order = LaunchSpec(
        owner=os.getpid(),
        argv=list(python("for n in range(20000): print('phase: ' + 'x' * 50)\nopen('done', 'w')")),
        directory=str(folder),
        log=str(folder / "log"),
        cwd=str(tmp_path),
        watch="^phase",
    )
    with subprocess.Popen(
        [sys.executable, "-I", "-S", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(order.to_line())
        process.stdin.flush()
        await_true((tmp_path / "done").exists, 30)


def test_listening_socket_is_passed_on_and_closed_in_the_supervisor(started: list[ServerProcess]) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    code = f"""
        import socket
        server = socket.socket(fileno={listener.fileno()})
        connection, _ = server.accept()
        connection.sendall(b"hello")
        connection.recv(1)
        """
    process = ServerProcess(LaunchSpec(python(code), pass_fds=(listener.fileno(),)))
    started.append(process)
    listener.close()
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        assert client.recv(5) == b"hello"
        process.stop()
        assert select.select([client], [], [], 5)[0]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)
    socket.create_server(("127.0.0.1", port)).close()


def test_process_names_may_contain_brackets(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "600"], start_new_session=True) as process:
        await_true(lambda: "(a) R 1 (b)" in Path(f"/proc/{process.pid}/stat").read_text())
        entry = system.read_processes()[process.pid]
        process.kill()
    assert (entry.parent, entry.session) == (os.getpid(), process.pid)
