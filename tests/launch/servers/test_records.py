"""The records of servers: names, folders, and sweeping what killed supervisors left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.fake_engine import alive, await_gone, await_true, read_pids, run_elsewhere, server_folders, start

import nbruntime
from nbruntime.errors import ArgumentValueError, LaunchError
from nbruntime.launch import registry
from nbruntime.launch.servers import ServerInfo, ServerList
from nbruntime.launch.supervisor.processes import ProcessId, identify
from nbruntime.launch.supervisor.record import ServerRecord


def test_record_of_a_server_from_start_to_end() -> None:
    with start(name="chat", api_key="hunter2", env={"TOKEN": "swordfish"}) as runtime:
        [folder] = (path for path in registry.folder().iterdir() if path.is_dir())
        file = folder / "server.json"
        assert file.stat().st_mode & 0o777 == 0o600
        text = file.read_text()
        assert json.loads(text)["state"] == "ready"  # at once
        assert "hunter2" not in text
        assert "swordfish" not in text
        record = ServerRecord.read(str(folder))
        assert record is not None
        assert (record.name, record.engine, record.url) == ("chat", "fake", runtime.url)
        assert record.model == "fake/model"
        assert record.owner == identify(os.getpid())
        assert record.server == identify(runtime.pid or 0)
        assert record.supervisor is not None
        [info] = nbruntime.servers()
        assert (info.name, info.state, info.owner, info.pid) == ("chat", "ready", "this kernel", runtime.pid)
        assert info.age < 30
    assert server_folders() == []
    assert nbruntime.servers() == []


def test_table_of_servers() -> None:
    assert repr(ServerList()) == "No servers"
    one = ServerInfo("chat", "some/model", "sglang", "http://127.0.0.1:30000", "ready", "kept", 7300.0, 12)
    two = replace(one, name="a-longer-name", model="tiny", owner="this kernel", age=3.4)
    assert repr(ServerList([one, two])).splitlines() == [
        "name           model       engine  url                     state  owner        age",
        "chat           some/model  sglang  http://127.0.0.1:30000  ready  kept         2 h 1 min",
        "a-longer-name  tiny        sglang  http://127.0.0.1:30000  ready  this kernel  3 s",
    ]


@pytest.mark.filterwarnings("ignore:The same server runs already")
def test_default_names_are_numbered() -> None:
    with start() as first, start(model_path="meta/Some Model 7B") as other, start() as second:
        assert [one.name for one in (first, other, second)] == ["fake", "fake-2", "fake-3"]
    with start() as again:
        assert again.name == "fake"


@pytest.mark.parametrize(
    ("stem", "name"),
    [("Llama-3.1-8B", "Llama-3.1-8B"), ("a b/c", "a-b-c"), ("...", "server"), ("all", "all-2")],
)
def test_default_name_comes_from_the_model(stem: str, name: str) -> None:
    record = registry.claim(stem=stem)
    assert record.name == name
    registry.check_name(name)
    registry.clear(record)


@pytest.mark.parametrize(
    "name", ["all", "everywhere", "orphans", "", "a/b", "-x", "x" * 65, "http://127.0.0.1:1"]
)
def test_invalid_name_is_an_error(name: str) -> None:
    with pytest.raises(ArgumentValueError, match="cannot be a server's name"):
        start(name=name)


def test_folder_that_other_users_can_read_is_an_error(tmp_path: Path) -> None:
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
    threads = [threading.Thread(target=lambda: records.append(registry.claim())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({record.name for record in records}) == 16
    for record in records:
        registry.clear(record)


def test_process_with_a_reused_pid_is_not_killed() -> None:
    """A record whose processes have ended, and whose pids belong to others by now."""
    shell = ["sh", "-c", "sleep 600 & echo $!; wait"]
    with subprocess.Popen(shell, stdout=subprocess.PIPE, start_new_session=True) as stranger:
        assert stranger.stdout is not None
        child = int(stranger.stdout.readline())
        record = registry.claim()
        other = ProcessId(stranger.pid, "an earlier time")
        replace(record, owner=other, supervisor=other, server=other).write()
        assert nbruntime.servers() == []
        [info] = nbruntime.stop("orphans")
        assert (info.name, info.owner, info.state) == ("server", "orphan", "stopped")
        assert server_folders() == []
        assert alive(stranger.pid)
        assert alive(child), "nor is its session looked through"
        os.killpg(stranger.pid, signal.SIGKILL)


def test_folder_of_a_launch_that_was_killed_early_is_swept() -> None:
    (registry.folder() / "empty").mkdir()
    start().shutdown()
    assert server_folders() == []


def test_launch_that_was_interrupted_before_it_began_is_swept() -> None:
    record = registry.claim("chat")
    with pytest.raises(registry.NameTaken):
        registry.claim("chat")
    replace(record, started=time.time() - registry.START_SECONDS).write()
    with start(name="chat"):
        assert len(server_folders()) == 1


def test_record_of_a_later_version_is_left_alone() -> None:
    folder = registry.folder() / "later"
    folder.mkdir()
    (folder / "server.json").write_text('{"something": "else"}')
    start().shutdown()
    assert server_folders() == ["later"]
    assert nbruntime.servers() == []


JUNK = ["[]", '"x"', "null", "5", "{", "[" * 100_000, '{"name": 1}']


@pytest.mark.parametrize("text", JUNK, ids=lambda text: text[:10])
def test_invalid_record_is_ignored(text: str) -> None:
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
def test_record_with_a_field_of_a_wrong_type_is_ignored(wrong: dict[str, Any]) -> None:
    record = registry.claim()
    file = Path(record.directory, "server.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | wrong))
    assert ServerRecord.read(record.directory) is None
    assert nbruntime.servers() == []
    with start(name="server", reuse=True):
        assert len(nbruntime.servers()) == 1


def test_record_is_written_again_after_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
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
    record = registry.claim()
    replace(record, machine="another", owner=ProcessId(1, "never")).write()
    start().shutdown()
    assert len(server_folders()) == 1
    for which in ("all", "everywhere"):
        assert nbruntime.stop(which) == []
    assert len(server_folders()) == 1


@pytest.mark.parametrize("which", ["orphans", "all", "chat"])
def test_tree_of_a_killed_supervisor_is_swept(which: str, tmp_path: Path) -> None:
    """Its children in other sessions have outlived server and supervisor, and nobody has cleared up."""
    pids = tmp_path / "pids"
    [supervisor] = run_elsewhere(
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
    assert server_folders() == []
