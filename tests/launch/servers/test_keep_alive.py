"""Servers that outlive their object and their kernel."""

from __future__ import annotations

import gc
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from support.fake_engine import alive, await_true, read_pids, run_elsewhere, server_folders, start

import nbruntime
from nbruntime.errors import ArgumentValueError
from nbruntime.launch.phases import Phases


def test_kept_server_outlives_its_process_and_can_be_stopped_from_another() -> None:
    [line] = run_elsewhere(
        """
        runtime = Runtime(engine="fake", port=0, name="kept", keep_alive=True, children=1)
        print(runtime.pid, runtime.url)
        """
    )
    pid, url = line.split()
    time.sleep(0.6)  # two of a supervisor's looks at its owner, if it had one
    assert alive(int(pid))
    assert run_elsewhere("print(nbruntime.servers())")[1].split()[:2] == ["kept", "fake/model"]
    [info] = nbruntime.stop(url)
    assert (info.name, info.owner, info.state) == ("kept", "kept", "stopped")
    assert not alive(int(pid))
    assert server_folders() == []


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


def test_end_of_an_attached_server_is_noticed() -> None:
    cell = 'Runtime(engine="fake", port=0, name="kept", keep_alive=True, reuse=True, api_key="hunter2")'
    [first] = run_elsewhere(f"runtime = {cell}\nprint(runtime.pid)")
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


def held() -> tuple[int, int]:
    """Threads and descriptors of this process."""
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


def test_repeated_attaching_takes_one_thread_and_one_descriptor() -> None:
    cell = 'Runtime(engine="fake", port=0, name="kept", keep_alive=True)'
    [first] = run_elsewhere(f"runtime = {cell}\nprint(runtime.pid)")
    arguments = {"name": "kept", "keep_alive": True, "reuse": True}
    start(**arguments).endpoint.close()
    gc.collect()
    # The threads of earlier tests' servers end a moment after their servers.
    await_true(lambda: "nbruntime-server" not in [thread.name for thread in threading.enumerate()])
    before = held()
    for _ in range(10):
        runtime = start(**arguments)
        assert str(runtime.pid) == first
        runtime.endpoint.close()
        del runtime
        gc.collect()
    await_true(lambda: held() == before)
    again, phases = start(**arguments), Phases()
    other = start(**arguments, progress=phases)
    again.shutdown()
    await_true(lambda: phases.current.name == "stopped")
    assert other.phase == "stopped"


def test_killed_kept_server_is_not_reused() -> None:
    [first] = run_elsewhere(
        'print(Runtime(engine="fake", port=0, name="kept", keep_alive=True, reuse=True).pid)'
    )
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
    run_elsewhere(
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
