"""A launch by `Runtime`, its ports, phases, arguments and failures, on a server that needs no model."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from support.fake_engine import SERVER, alive, await_true, children, connects, read_pids, start

import nbruntime
from nbruntime.chat import get_chat_template
from nbruntime.errors import LaunchError, LaunchTimeoutError, PortInUseError
from nbruntime.launch.engines.server_kind import IgnoredArgumentsWarning
from nbruntime.launch.phases import Phase
from nbruntime.profiling.monitor import LATENCIES
from nbruntime.runtime import Runtime

WHOLE = "Hello world, grüße!"


def test_attributes_of_sglangs_runtime(runtime: Runtime) -> None:
    assert runtime.url == f"http://127.0.0.1:{runtime.port}"
    assert runtime.generate_url == runtime.url + "/generate"
    assert runtime.endpoint.base_url == runtime.url
    assert runtime.endpoint.get_model_name() == "fake/model"
    assert runtime.pid is not None
    assert alive(runtime.pid)
    assert (runtime.engine, runtime.phase) == ("fake", "ready")
    assert "phase: ready" in runtime.logs()
    assert runtime.logs(1).startswith("ready at")
    assert (runtime.server_args.model_path, runtime.server_args.tp_size) == ("fake/model", 1)
    runtime.endpoint.chat_template = get_chat_template("chatml")
    assert runtime.endpoint.get_chat_template().name == "chatml"


@pytest.mark.filterwarnings("ignore:The same server runs already")
def test_default_port_is_the_first_free_one_from_30000() -> None:
    with start(port=None) as first, start(port=None) as second:
        assert 30000 <= first.port < second.port < 40000


@pytest.mark.parametrize("engine", ["fake", "binding"])
def test_eight_runtimes_at_once(engine: str) -> None:
    runtimes: list[Runtime] = []
    errors: list[Exception] = []

    def launch() -> None:
        try:
            runtimes.append(start(engine=engine, port=None))
        except (LaunchError, OSError, AssertionError) as error:
            errors.append(error)

    threads = [threading.Thread(target=launch) for _ in range(8)]
    before = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"eight at once ready after {time.monotonic() - before:.2f} s")
    try:
        assert errors == []
        assert len({runtime.port for runtime in runtimes}) == 8
        for runtime in runtimes:
            argv = runtime.endpoint.get_server_info()["argv"]
            assert str(runtime.port) in argv or engine == "fake"  # which is handed a socket
    finally:
        for runtime in runtimes:
            runtime.shutdown()


def test_port_taken_during_the_launch_is_replaced(tmp_path: Path) -> None:
    """A server that binds by itself may be beaten to its port by a stranger."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    strangers: list[socket.socket] = []

    def take(phase: Phase) -> None:
        if phase.name == "loading weights":
            if not strangers:
                strangers.append(socket.create_server(("127.0.0.1", ports[-1])))
            threading.Thread(target=lambda: gate.write_text("go")).start()

    ports: list[int] = []
    from nbruntime.launch import launcher as module

    claim_port = module.claim_port

    def noting(*arguments: Any, **options: Any) -> Any:
        claim = claim_port(*arguments, **options)
        ports.append(claim.port)
        return claim

    module.claim_port = noting  # type: ignore[attr-defined]
    try:
        with start(engine="binding", port=None, gate=str(gate), progress=take) as runtime:
            assert len(ports) == 2
            assert runtime.port == ports[1] > ports[0]
            assert runtime.endpoint.get_model_name() == "fake/model"
    finally:
        module.claim_port = claim_port  # type: ignore[attr-defined]
        for stranger in strangers:
            stranger.close()


def test_listener_on_another_address_is_no_conflict() -> None:
    with (
        socket.create_server(("127.0.0.2", 0)) as other,
        start(engine="binding", port=other.getsockname()[1]) as runtime,
    ):
        assert runtime.phase == "ready"


def test_taken_port_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"Port {port} is taken by process {os.getpid()}"):
            start(port=port)


def test_failed_launch_leaves_no_process(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    began = time.monotonic()
    with pytest.raises(LaunchError, match="RuntimeError: out of luck") as caught:
        start(fail="RuntimeError: out of luck", children=1, pids=str(pids))
    print(f"failed launch raised after {time.monotonic() - began:.2f} s")
    assert "phase: loading weights" in str(caught.value)
    assert not any(alive(pid) for pid in read_pids(pids))


def test_timed_out_launch_leaves_no_process(tmp_path: Path) -> None:
    gate, pids = tmp_path / "gate", tmp_path / "pids"
    os.mkfifo(gate)
    with pytest.raises(LaunchTimeoutError, match=r"not ready within 4 s"):
        start(gate=str(gate), pids=str(pids), children=1, launch_timeout=4)
    assert not any(alive(pid) for pid in read_pids(pids))


def test_wrong_answer_in_the_constructor_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no")

    monkeypatch.setattr("nbruntime.runtime.runtime.RuntimeEndpoint", fail)
    pids = tmp_path / "pids"
    with pytest.raises(ConnectionError):
        start(pids=str(pids))
    assert not any(alive(pid) for pid in read_pids(pids))


@pytest.mark.parametrize("keep_alive", [False, True])
def test_interrupt_at_the_end_of_the_constructor_leaves_no_process(
    keep_alive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    pids = tmp_path / "pids"
    arguments = {"name": "tail", "keep_alive": keep_alive, "pids": str(pids)}
    monkeypatch.setattr("nbruntime.runtime.progress.Announcer.end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        start(**arguments)
    assert not any(alive(pid) for pid in read_pids(pids))
    monkeypatch.undo()
    with start(**arguments) as runtime:
        monkeypatch.setattr("nbruntime.runtime.progress.Announcer.end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            start(**arguments, reuse=True)
        assert runtime.phase == "ready", "one that ran before is left alone"


def test_interrupt_during_launch_leaves_no_process(tmp_path: Path) -> None:
    gate, pids = tmp_path / "gate", tmp_path / "pids"
    os.mkfifo(gate)

    def interrupt() -> None:
        await_true(pids.exists)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        start(gate=str(gate), pids=str(pids), children=1)
    thread.join()
    assert not any(alive(pid) for pid in read_pids(pids))


def test_phases_are_observed(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[str, str]] = []
    runtime = Runtime.__new__(Runtime)

    def progress(phase: Phase) -> None:
        seen.append((str(phase), runtime.phase))

    runtime.__init__(  # type: ignore[misc]  # so that the callback can look at it
        engine="fake", port=0, say=["phase: downloading 1/2 MB"], progress=progress
    )
    with runtime:
        assert seen == [
            ("starting", "starting"),
            ("loading weights", "loading weights"),
            ("downloading 1/2 MB", "downloading"),
            ("ready", "ready"),
        ]
    assert capsys.readouterr() == ("", "")


def test_quiet_at_error_and_phases_at_info(capsys: pytest.CaptureFixture[str]) -> None:
    start().shutdown()
    assert capsys.readouterr() == ("", "")
    start(log_level="info").shutdown()
    output, said = capsys.readouterr()
    assert output == ""
    assert said.splitlines()[0] == "nbruntime: starting"
    assert said.splitlines()[-1] == "nbruntime: ready"


@pytest.mark.parametrize(("interval", "told"), [(60.0, [1]), (0.0, range(1, 10))])
def test_long_download_writes_its_progress(
    interval: float, told: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nbruntime.runtime.progress.QUIET_SECONDS", 0.0)
    monkeypatch.setattr("nbruntime.runtime.progress.PROGRESS_SECONDS", interval)
    start(say=[f"phase: downloading {n}/9 MB" for n in range(1, 10)]).shutdown()
    assert capsys.readouterr().err.splitlines() == [f"nbruntime: downloading {n}/9 MB" for n in told]


def test_arguments_of_the_other_engine_give_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    from support.fake_engine import FakeEngine

    accept = FakeEngine.accept

    def accept_less(self: FakeEngine, arguments: Any) -> Any:
        from dataclasses import replace

        rest = {name: value for name, value in arguments.items() if name not in ("tp_size", "dp_size")}
        return replace(accept(self, rest), ignored=("tp_size", "dp_size"))

    monkeypatch.setattr(FakeEngine, "accept", accept_less)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Runtime(engine="fake", port=0, tp_size=2, dp_size=2).shutdown()
    notices = [warning for warning in caught if warning.category is IgnoredArgumentsWarning]
    assert [str(notice.message) for notice in notices] == [
        "The fake server has no tp_size, dp_size: left out"
    ]
    assert notices[0].filename == __file__


def test_unknown_argument_is_a_type_error_before_anything_starts() -> None:
    before = children()
    with pytest.raises(TypeError, match="Did you mean 'context_length'"):
        Runtime(engine="embedded", contxt_length=512)
    assert children() == before


def test_environment_of_the_server(runtime: Runtime) -> None:
    with start(env={"MARKED": "yes"}) as other:
        environ = Path(f"/proc/{other.pid}/environ").read_bytes().split(b"\0")
        assert b"MARKED=yes" in environ
    assert b"MARKED=yes" not in Path(f"/proc/{runtime.pid}/environ").read_bytes().split(b"\0")


STAND_IN = """
import argparse, os, runpy, sys
parser = argparse.ArgumentParser()
for name in ("model-path", "host", "port", "log-level", "tp-size", "api-key"):
    parser.add_argument("--" + name)
args = parser.parse_args()
print("[2025-09-01 10:00:00 TP0] Load weight begin. avail mem=78.00 GB", flush=True)
print("server_args=ServerArgs(api_key=%r)" % args.api_key, flush=True)
os.environ["NBRUNTIME_API_KEY"] = args.api_key
sys.argv = ["server", "--host", args.host, "--port", args.port]
runpy.run_path({server!r}, run_name="__main__")
"""


def test_sglang_of_another_environment(tmp_path: Path) -> None:
    """A stand-in for ``sglang.launch_server``, started as the real one is."""
    package = tmp_path / "sglang"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "launch_server.py").write_text(STAND_IN.format(server=str(SERVER)))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    phases: list[str] = []
    with Runtime(
        "some/model",
        engine="sglang",
        python=python,
        tp_size=2,
        api_key="hunter2",
        progress=lambda phase: phases.append(phase.name),
    ) as runtime:
        assert json.loads(runtime.generate("Hi"))["text"] == WHOLE
        command = Path(f"/proc/{runtime.pid}/cmdline").read_text().split("\0")
        assert command[command.index("--tp-size") + 1] == "2"
        assert command[command.index("--model-path") + 1] == "some/model"
        assert "hunter2" not in " ".join(command)
        assert "api_key='***'" in runtime.logs()
        assert (runtime.engine, phases) == ("sglang", ["starting", "loading weights", "ready"])


@pytest.mark.model
async def test_embedded_server_with_the_default_model() -> None:
    began = time.monotonic()
    with Runtime() as runtime:
        print(f"ready after {time.monotonic() - began:.1f} s")
        assert (runtime.engine, runtime.phase) == ("embedded", "ready")
        whole = json.loads(
            runtime.generate("The capital of France is", {"temperature": 0, "max_new_tokens": 8})
        )
        assert "Paris" in whole["text"]
        sampling = {"temperature": 0, "max_new_tokens": 8}
        deltas = [delta async for delta in runtime.async_generate("The capital of France is", sampling)]
        assert "".join(deltas) == whole["text"]
        info = await runtime.get_server_info()
        assert info["port"] == runtime.port
        [listed] = [one for one in nbruntime.servers() if one.url == runtime.url]
        assert listed.name.startswith("SmolLM2-135M-Instruct")
        assert (listed.model, listed.engine) == ("SmolLM2-135M-Instruct", "embedded")
        panel = runtime.panel()
        panel.monitor.poll()
        assert all(label in panel.card().html() for label in LATENCIES.values())
        panel.close()
        assert runtime.get_tokenizer().decode(whole["output_ids"]) == whole["text"]
        pid, port = runtime.pid, runtime.port
    assert pid is not None
    assert not alive(pid)
    assert not connects(port)
