"""The end of a Runtime and of its server: shutdown, collection, copies, forks."""

from __future__ import annotations

import contextlib
import copy
import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
import weakref
from pathlib import Path
from typing import Any

import pytest
from support.fake_engine import SERVER, alive, await_gone, await_true, connects, read_pids, start

from nbruntime.errors import LaunchError, ServerConnectionError
from nbruntime.runtime import Runtime

WHOLE = "Hello world, grüße!"


def test_shutdown_waits_until_all_processes_have_ended(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    runtime = start(children=2, pids=str(pids))
    port = runtime.port
    assert connects(port)
    began = time.perf_counter()
    runtime.shutdown()
    print(f"shutdown took {1e3 * (time.perf_counter() - began):.0f} ms")
    assert not any(alive(pid) for pid in read_pids(pids))
    assert not connects(port)
    with start(port=port) as again:
        assert again.port == port
    runtime.shutdown()
    assert (runtime.phase, runtime.pid) == ("stopped", None)
    assert "phase: ready" in runtime.logs()


def test_server_that_ignores_sigterm_is_gone_within_a_second(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    runtime = start(ignore_sigterm=True, pids=str(pids))
    began = time.perf_counter()
    runtime.shutdown()
    print(f"shutdown took {time.perf_counter() - began:.2f} s")
    assert not any(alive(pid) for pid in read_pids(pids))


def test_call_after_shutdown_is_an_error(runtime: Runtime) -> None:
    runtime.shutdown()
    calls = [
        lambda: runtime.generate("Hi"),
        lambda: runtime.encode("Hi"),
        lambda: runtime.cache_prefix("Hi"),
        runtime.flush_cache,
        runtime.start_profile,
        runtime.stop_profile,
        runtime.get_tokenizer,
    ]
    for call in calls:
        with pytest.raises(ServerConnectionError, match=r"This Runtime was shut down(.|\n)*Runtime\("):
            call()


async def test_async_call_after_shutdown_is_an_error(runtime: Runtime) -> None:
    runtime.shutdown()
    with pytest.raises(ServerConnectionError, match="was shut down"):
        await runtime.get_server_info()
    with pytest.raises(ServerConnectionError, match="was shut down"):
        await anext(runtime.async_generate("Hi"))


def test_error_of_a_dead_server_has_the_cause(runtime: Runtime) -> None:
    assert runtime.pid is not None
    os.kill(runtime.pid, signal.SIGKILL)
    with pytest.raises(ServerConnectionError, match=r"died: it was killed by SIGKILL(.|\n)*phase: ready"):
        runtime.generate("Hi")
    await_true(lambda: runtime.phase == "died")
    assert "died · it was killed by SIGKILL" in repr(runtime)


def test_endpoint_error_of_a_dead_server_has_the_cause(runtime: Runtime) -> None:
    assert runtime.pid is not None
    os.kill(runtime.pid, signal.SIGKILL)
    with pytest.raises(ServerConnectionError, match=r"died: it was killed by SIGKILL(.|\n)*phase: ready"):
        runtime.endpoint.complete("Hi")


def test_referenced_endpoint_does_not_keep_the_server() -> None:
    runtime = start()
    endpoint, server = runtime.endpoint, weakref.ref(runtime._server)  # type: ignore[arg-type]
    del runtime
    gc.collect()
    assert server() is None
    with pytest.raises(ServerConnectionError, match=r"Its Runtime was shut down"):
        endpoint.complete("Hi")


def test_deleted_runtime_stops_its_server(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    runtime = start(children=1, pids=str(pids))
    found = read_pids(pids)
    del runtime
    print(f"gone {await_gone(found):.3f} s after del")


@pytest.mark.parametrize("dies", [False, True])
def test_ended_runtime_has_closed_its_files(dies: bool) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", ResourceWarning)
        runtime = start()
        pid = runtime.pid or 0
        if dies:
            os.kill(pid, signal.SIGKILL)
            await_gone([pid])
        runtime.shutdown()
        del runtime
        gc.collect()
    assert [str(each.message) for each in seen if "unclosed" in str(each.message)] == []


def test_new_runtime_in_the_same_variable_stops_the_old_server(tmp_path: Path) -> None:
    runtime = start(pids=str(tmp_path / "first"))
    first = read_pids(tmp_path / "first")
    runtime = start(pids=str(tmp_path / "second"))
    await_gone(first)
    assert all(alive(pid) for pid in read_pids(tmp_path / "second"))
    runtime.shutdown()


def test_runtime_in_a_reference_cycle_is_collected(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    runtime = start(pids=str(pids))
    runtime.me = runtime  # type: ignore[attr-defined]
    del runtime
    gc.collect()
    await_gone(read_pids(pids))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_copies_are_refused_and_leave_the_server_alone(duplicate: Any, runtime: Runtime) -> None:
    with pytest.raises(TypeError, match=r"cannot be pickled or copied(.|\n)*RuntimeEndpoint\(url"):
        duplicate(runtime)
    gc.collect()
    assert json.loads(runtime.generate("Hi"))["text"] == WHOLE


def test_fork_can_use_the_server_and_cannot_end_it(runtime: Runtime) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads
        child = os.fork()
    if child == 0:
        code = 1
        try:
            answer = json.loads(runtime.generate("Hi"))["text"]
            runtime.shutdown()
            with contextlib.suppress(AttributeError):
                runtime.__del__()  # type: ignore[attr-defined]
            del runtime
            gc.collect()
            code = 0 if answer == WHOLE else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert json.loads(runtime.generate("Hi"))["text"] == WHOLE


def test_many_runtimes_end_together_at_exit(tmp_path: Path) -> None:
    code = f"""
import sys, threading
sys.path[:0] = {[str(SERVER.parents[1]), str(SERVER.parents[2])]!r}
from support import fake_engine; fake_engine.install()
from nbruntime.runtime import Runtime
options = dict(engine="fake", port=0, ignore_sigterm=True)
servers = [Runtime(pids={str(tmp_path)!r} + f"/{{n}}", **options) for n in range(4)]
import time
print(time.time())
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    took = time.time() - float(ran.stdout)
    assert ran.stderr == ""
    print(f"four servers that ignore SIGTERM: exit took {took:.2f} s")
    await_gone([pid for n in range(4) for pid in read_pids(tmp_path / str(n))])


def test_nothing_is_left_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with start() as runtime:
        [own] = tmp_path.iterdir()
        [folder] = filter(Path.is_dir, own.iterdir())
        assert own.stat().st_mode & 0o777 == folder.stat().st_mode & 0o777 == 0o700
        assert runtime.phase == "ready"
    assert [path.name for path in own.iterdir()] == ["lock"]
    with pytest.raises(LaunchError):
        start(fail="no")
    assert [path.name for path in own.iterdir()] == ["lock"]
