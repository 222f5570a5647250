"""The registry of servers: names, records, keeping alive, handing out again, stopping, sweeping."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.fake_engine import SERVER, alive, await_gone, await_true, installed, read_pids

import nbruntime
from nbruntime.errors import ArgumentValueError, LaunchError
from nbruntime.launch import registry
from nbruntime.launch.phases import Phase, Phases
from nbruntime.launch.process import ServerCommand, ServerProcess
from nbruntime.launch.servers import ServerInfo, ServerList
from nbruntime.launch.supervisor.processes import ProcessId, identify
from nbruntime.launch.supervisor.record import ServerRecord
from nbruntime.runtime import Runtime


@pytest.fixture(autouse=True)
def _own_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with installed():
        yield
        gc.collect()
        nbruntime.stop("all")


def start(**arguments: Any) -> Runtime:
    return Runtime(**{"engine": "fake", "port": 0, **arguments})


def elsewhere(code: str, *, end: str = "") -> list[str]:
    """Run code in another process, as another kernel would; gives the lines that it prints."""
    script = f"""
import os, sys
sys.path[:0] = {[str(SERVER.parents[1]), str(SERVER.parents[2])]!r}
from support import fake_engine; fake_engine.install()
import nbruntime
from nbruntime.runtime import Runtime
{textwrap.dedent(code)}
sys.stdout.flush()
{end}
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ran.stderr == ""
    return ran.stdout.splitlines()


def folders() -> list[str]:
    return [path.name for path in registry.folder().iterdir() if path.is_dir()]


# Records


def test_record_of_a_server_from_start_to_end() -> None:
    with start(name="chat", api_key="hunter2", env={"TOKEN": "swordfish"}) as runtime:
        [folder] = (path for path in registry.folder().iterdir() if path.is_dir())
        file = folder / "server.json"
        assert file.stat().st_mode & 0o777 == 0o600
        await_true(lambda: json.loads(file.read_text())["state"] == "ready")
        text = file.read_text()
        assert "hunter2" not in text
        assert "swordfish" not in text
        record = ServerRecord.read(str(folder))
        assert record is not None
        assert (record.name, record.engine, record.url) == ("chat", "fake", runtime.url)
        assert record.owner == identify(os.getpid())
        assert record.server == identify(runtime.pid or 0)
        assert record.supervisor is not None
        [info] = nbruntime.servers()
        assert (info.name, info.state, info.owner, info.pid) == ("chat", "ready", "this kernel", runtime.pid)
        assert info.age < 30
    assert folders() == []
    assert nbruntime.servers() == []


def test_table_of_servers() -> None:
    assert repr(ServerList()) == "No servers"
    one = ServerInfo("chat", "some/model", "sglang", "http://127.0.0.1:30000", "ready", "kept", 7300.0, 12)
    two = replace(one, name="a-longer-name", model="", owner="this kernel", age=3.4)
    assert repr(ServerList([one, two])).splitlines() == [
        "name           model       engine  url                     state  owner        age",
        "chat           some/model  sglang  http://127.0.0.1:30000  ready  kept         2 h 1 min",
        "a-longer-name  default     sglang  http://127.0.0.1:30000  ready  this kernel  3 s",
    ]


def test_default_names_are_numbered() -> None:
    with start() as first, start(model_path="meta/Some Model 7B") as other, start() as second:
        assert [one.name for one in (first, other, second)] == ["fake", "fake-2", "fake-3"]
    with start() as again:
        assert again.name == "fake"


@pytest.mark.parametrize(
    ("stem", "name"),
    [("Llama-3.1-8B", "Llama-3.1-8B"), ("a b/c", "a-b-c"), ("...", "server"), ("all", "all-2")],
)
def test_names_are_made_of_models(stem: str, name: str) -> None:
    record = registry.claim(registry.Identity(stem=stem))
    assert record.name == name
    registry.check_name(name)
    registry.clear(record)


@pytest.mark.parametrize("name", ["all", "orphans", "", "a/b", "-x", "x" * 65, "http://127.0.0.1:1"])
def test_impossible_names(name: str) -> None:
    with pytest.raises(ArgumentValueError, match="cannot be a server's name"):
        start(name=name)


def test_folder_that_is_not_ours_alone(tmp_path: Path) -> None:
    own = registry.folder()
    own.chmod(0o755)
    with pytest.raises(LaunchError, match=r"not yours alone(.|\n)*TMPDIR"):
        start()
    own.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    own.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LaunchError, match="not yours alone"):
        start()
    own.unlink()


def test_sixteen_claims_at_once_get_different_names() -> None:
    records: list[ServerRecord] = []
    threads = [
        threading.Thread(target=lambda: records.append(registry.claim(registry.Identity())))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({record.name for record in records}) == 16
    for record in records:
        registry.clear(record)


# Sweeping


def test_pid_that_was_given_out_again_is_left_alone() -> None:
    """A record whose processes have ended, and whose pids belong to others by now."""
    shell = ["sh", "-c", "sleep 600 & echo $!; wait"]
    with subprocess.Popen(shell, stdout=subprocess.PIPE, start_new_session=True) as stranger:
        assert stranger.stdout is not None
        child = int(stranger.stdout.readline())
        record = registry.claim(registry.Identity())
        other = ProcessId(stranger.pid, "an earlier time")
        replace(record, owner=other, supervisor=other, server=other).write()
        assert nbruntime.servers() == []
        [info] = nbruntime.stop("orphans")
        assert (info.name, info.owner, info.state) == ("server", "orphan", "stopped")
        assert folders() == []
        assert alive(stranger.pid)
        assert alive(child), "nor is its session looked through"
        os.killpg(stranger.pid, signal.SIGKILL)


def test_folder_of_a_launch_that_was_killed_early_is_swept() -> None:
    (registry.folder() / "empty").mkdir()
    start().shutdown()
    assert folders() == []


def test_launch_that_was_interrupted_before_it_began_is_swept() -> None:
    record = registry.claim(registry.Identity(name="chat"))
    with pytest.raises(registry.NameTaken):
        registry.claim(registry.Identity(name="chat"))
    replace(record, started=time.time() - registry.START_SECONDS).write()
    with start(name="chat"):
        assert len(folders()) == 1


def test_record_of_a_later_version_is_left_alone() -> None:
    folder = registry.folder() / "later"
    folder.mkdir()
    (folder / "server.json").write_text('{"something": "else"}')
    start().shutdown()
    assert folders() == ["later"]
    assert nbruntime.servers() == []


JUNK = ["[]", '"x"', "null", "5", "{", "[" * 100_000, '{"name": 1}']


@pytest.mark.parametrize("text", JUNK, ids=lambda text: text[:10])
def test_record_that_is_none_hurts_nobody(text: str) -> None:
    folder = registry.folder() / "junk"
    folder.mkdir()
    (folder / "server.json").write_text(text)
    assert nbruntime.servers() == []
    with start():
        assert len(nbruntime.servers()) == len(nbruntime.stop("all")) == 1


@pytest.mark.parametrize(
    "wrong",
    [{"started": "abc"}, {"name": None}, {"url": 5}, {"arguments": []}, {"server": "??"}, {"keep_alive": 1}],
)
def test_record_with_a_field_of_another_type_hurts_nobody(wrong: dict[str, Any]) -> None:
    record = registry.claim(registry.Identity())
    file = Path(record.directory, "server.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | wrong))
    assert ServerRecord.read(record.directory) is None
    assert nbruntime.servers() == []
    with start(name="server", reuse=True):
        assert len(nbruntime.servers()) == 1


def test_record_is_written_as_soon_as_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    write = ServerRecord.write

    def fill(self: ServerRecord) -> None:
        write(self)
        Path(self.directory, "server.json.part").mkdir()  # as on a full disk, no later write succeeds

    monkeypatch.setattr(ServerRecord, "write", fill)
    with start(name="chat") as runtime:
        assert runtime._server is not None
        directory = runtime._server.record.directory
        record = ServerRecord.read(directory)
        assert record is not None
        assert record.supervisor is None
        monkeypatch.setattr(registry, "START_SECONDS", 0.0)
        monkeypatch.setattr(ServerRecord, "write", write)
        start().shutdown()
        assert runtime.phase == "ready", "it is not taken for a launch that was interrupted"
        Path(directory, "server.json.part").rmdir()
        await_true(lambda: (ServerRecord.read(directory) or record).state == "ready")


def test_record_of_another_machine_is_left_alone() -> None:
    record = registry.claim(registry.Identity())
    replace(record, machine="another", owner=ProcessId(1, "never")).write()
    start().shutdown()
    assert len(folders()) == 1
    assert nbruntime.stop("all") == []
    assert len(folders()) == 1


@pytest.mark.parametrize("which", ["orphans", "all", "chat"])
def test_tree_of_a_killed_supervisor_is_swept(which: str, tmp_path: Path) -> None:
    """Its children in other sessions have outlived server and supervisor, and nobody has cleared up."""
    pids = tmp_path / "pids"
    [supervisor] = elsewhere(
        f"""
        runtime = Runtime(
            engine="fake", port=0, name="chat", children=2, bare_children=1, pids={str(pids)!r}
        )
        print(runtime._server.supervisor_pid)
        """,
        end="os.kill(runtime._server.supervisor_pid, 9) or os.kill(os.getpid(), 9)",
    )
    server, *children = read_pids(pids)
    await_gone([int(supervisor), server])
    left = [pid for pid in children if alive(pid)]
    print(f"{len(left)} children were left")
    assert [(one.name, one.state) for one in nbruntime.stop(which)] == [("chat", "stopped")]
    assert not any(alive(pid) for pid in children)
    assert folders() == []


# Keeping alive


def test_kept_server_outlives_its_process_and_can_be_stopped_from_another() -> None:
    [line] = elsewhere(
        """
        runtime = Runtime(engine="fake", port=0, name="kept", keep_alive=True, children=1)
        print(runtime.pid, runtime.url)
        """
    )
    pid, url = line.split()
    time.sleep(0.6)  # two of a supervisor's looks at its owner, if it had one
    assert alive(int(pid))
    assert elsewhere("print(nbruntime.servers())")[1].split()[:2] == ["kept", "default"]
    [info] = nbruntime.stop(url)
    assert (info.name, info.owner, info.state) == ("kept", "kept", "stopped")
    assert not alive(int(pid))
    assert folders() == []


def test_kept_server_survives_its_object_and_ends_with_shutdown() -> None:
    runtime = start(keep_alive=True, ignore_sigterm=True)
    pid = runtime.pid
    assert pid is not None
    assert "fake server, kept alive" in repr(runtime)
    del runtime
    gc.collect()
    time.sleep(0.6)
    assert alive(pid)
    again = start(keep_alive=True, ignore_sigterm=True, reuse=True)
    assert again.pid == pid
    again.shutdown()
    assert not alive(pid)
    assert (again.phase, again.phases.current.name) == ("stopped", "stopped")


def test_kept_server_is_attached_to_and_heard_of() -> None:
    cell = 'Runtime(engine="fake", port=0, name="kept", keep_alive=True, reuse=True, api_key="hunter2")'
    [first] = elsewhere(f"runtime = {cell}\nprint(runtime.pid)")
    arguments = {"name": "kept", "keep_alive": True, "reuse": True}
    runtime = start(**arguments, api_key="hunter2")
    assert str(runtime.pid) == first
    assert json.loads(runtime.generate("Hi"))["text"] == "Hello world, grüße!"
    assert "phase: ready" in runtime.logs()
    assert runtime.endpoint.get_model_name() == "fake/model"
    with pytest.raises(ArgumentValueError, match=r"'kept' runs with another API key(.|\n)*api_key="):
        start(**arguments, api_key="swordfish")
    with pytest.raises(ArgumentValueError, match=r"other arguments: api_key: '\*\*\*', now not given"):
        start(**arguments)
    phases = Phases()
    other = start(**arguments, api_key="hunter2", progress=phases)
    assert phases.current.name == "ready"
    nbruntime.stop("kept")
    await_true(lambda: phases.current.name == "stopped")
    assert (runtime.phase, other.phase) == ("stopped", "stopped")


def test_attaching_again_and_again_costs_one_thread_and_one_descriptor() -> None:
    cell = 'Runtime(engine="fake", port=0, name="kept", keep_alive=True)'
    [first] = elsewhere(f"runtime = {cell}\nprint(runtime.pid)")
    arguments = {"name": "kept", "keep_alive": True, "reuse": True}
    start(**arguments).endpoint.close()
    gc.collect()
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        runtime = start(**arguments)
        assert str(runtime.pid) == first
        runtime.endpoint.close()
        del runtime
        gc.collect()
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before
    again, phases = start(**arguments), Phases()
    other = start(**arguments, progress=phases)
    again.shutdown()
    await_true(lambda: phases.current.name == "stopped")
    assert other.phase == "stopped"


def test_kept_server_that_is_killed_is_not_handed_back() -> None:
    [first] = elsewhere('print(Runtime(engine="fake", port=0, name="kept", keep_alive=True, reuse=True).pid)')
    runtime = start(name="kept", keep_alive=True, reuse=True)
    os.kill(int(first), signal.SIGKILL)
    await_true(lambda: runtime.phase == "died")
    assert "died · it ended, or another kernel has stopped it" in repr(runtime)
    again = start(name="kept", keep_alive=True, reuse=True)
    assert str(again.pid) != first
    again.shutdown()


def test_kept_server_whose_kernel_died_while_it_was_loading(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    pids = tmp_path / "pids"
    arguments = {"name": "kept", "keep_alive": True, "gate": str(gate), "pids": str(pids)}
    elsewhere(
        f"""
        import threading
        def die():
            fake_engine.read_pids(fake_engine.Path({str(pids)!r})); os._exit(0)
        threading.Thread(target=die).start()
        Runtime(engine="fake", port=0, **{arguments!r})
        """
    )
    [server] = read_pids(pids)
    assert [one.state for one in nbruntime.servers()] == ["starting"]
    threading.Timer(0.3, lambda: gate.write_text("go")).start()
    runtime = start(**arguments, reuse=True)
    assert runtime.pid == server
    runtime.shutdown()


# Handing out again


def test_cell_that_is_run_again_gets_the_same_server() -> None:
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


def test_cell_that_is_run_again_forgets_what_it_showed_before() -> None:
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


def test_server_without_a_name_is_handed_back_by_its_arguments() -> None:
    first = start(reuse=True)
    assert start(reuse=True).pid == first.pid
    other = start(reuse=True, env={"A": "1"})
    assert other.pid != first.pid
    assert start(reuse=True, env={"A": "1"}).pid == other.pid
    assert start().pid not in (first.pid, other.pid)


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


def test_server_that_another_thread_is_starting_hinders_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
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
    [folder] = folders()
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
    threads = [threading.Thread(target=lambda: answers.extend(elsewhere(cell))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    assert len(set(answers)) == 1


def test_taken_name_is_an_error_that_says_what_to_do() -> None:
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


def test_same_folder_from_another_folder_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "said").touch()
    monkeypatch.chdir(tmp_path)
    first = start(name="chat", fail=None, pids="said")
    monkeypatch.chdir("/")
    assert start(name="chat", pids=str(tmp_path / "said"), reuse=True).pid == first.pid


def test_replace_ends_the_old_one_first() -> None:
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


def test_server_of_another_kernel_is_neither_taken_nor_ended() -> None:
    first = start(name="chat")
    for option in ("reuse", "replace"):
        code = f"""
        try:
            Runtime(engine="fake", port=0, name="chat", {option}=True)
        except ValueError as error:
            print(error)
        """
        said = elsewhere(code)
        assert said[0] == (
            f"The name 'chat' belongs to a server of another kernel, process {os.getpid()} ({first.url})"
        )
        assert "nbruntime.stop('chat')" in said[1]
    assert first.phase == "ready"


def test_dead_server_is_not_handed_back() -> None:
    first = start(name="chat")
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    second = start(name="chat", reuse=True)
    assert second.pid != first.pid
    assert json.loads(second.generate("Hi"))["text"] == "Hello world, grüße!"
    first.shutdown()
    assert second.phase == "ready"


# Stopping


def test_stop_by_name_and_by_url_in_this_kernel() -> None:
    first, second = start(name="one"), start(name="two")
    assert [one.name for one in nbruntime.stop("one")] == ["one"]
    assert (first.phase, second.phase) == ("stopped", "ready")
    assert [one.name for one in nbruntime.stop(second.url + "/")] == ["two"]
    assert nbruntime.stop("all") == []


def test_stop_of_nobody_names_those_that_run() -> None:
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
    [line] = elsewhere(
        """
        runtime = Runtime(engine="fake", port=0, name="kept", keep_alive=True, children=1)
        print(runtime.pid, runtime._server.supervisor_pid)
        """
    )
    server, supervisor = map(int, line.split())
    os.kill(supervisor, signal.SIGSTOP)
    nbruntime.stop("kept")
    assert not any(alive(pid) for pid in (server, supervisor))
    assert folders() == []


def test_stop_of_one_that_is_being_launched(tmp_path: Path) -> None:
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


# Phases


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


def test_observer_that_fails_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    phases = Phases()
    seen: list[str] = []
    phases.subscribe(lambda phase: 1 // 0)
    forget = phases.subscribe(lambda phase: seen.append(phase.name))
    with start(progress=phases) as runtime:
        assert runtime.phases is phases
    await_true(lambda: phases.current.name == "stopped")
    forget()
    phases.enter(Phase("nobody hears"))
    assert seen == ["starting", "starting", "loading weights", "ready", "stopped"]
    assert "An observer failed at the phase ready" in caplog.text


def test_failed_launch_is_a_phase() -> None:
    phases = Phases()
    with pytest.raises(LaunchError):
        start(progress=phases, fail="no")
    assert [name for name, _ in phases.history] == ["starting", "loading weights", "failed"]


def test_launch_of_a_server_that_dies_when_it_is_asked_for_its_model() -> None:
    with pytest.raises(LaunchError, match=r"MemoryError: no room \(it exited with code 3\)") as caught:
        start(fail_asked="MemoryError: no room")
    assert "MemoryError: no room" in caught.value.log_lines
    assert folders() == []


def test_death_of_the_server_is_a_phase() -> None:
    runtime = start()
    seen: list[str] = []
    runtime.phases.subscribe(lambda phase: seen.append(phase.name))
    assert runtime.pid is not None
    os.kill(runtime.pid, signal.SIGKILL)
    await_true(lambda: seen == ["ready", "died"])


def test_server_process_alone_is_registered_too() -> None:
    process = ServerProcess(ServerCommand(("sleep", "600")))
    assert [one.name for one in nbruntime.servers()] == ["server"]
    process.stop()
    assert nbruntime.servers() == []
