"""Magics that launch, inspect and stop servers, and their keys."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from support.fake_engine import run_elsewhere
from support.ipython_shell import completions, failure, run
from support.magics import named_servers, usage_error
from support.scripted_server import ScriptedServer

from nbruntime import errors
from nbruntime.endpoint import RuntimeEndpoint
from nbruntime.launch import registry
from nbruntime.launch.supervisor.record import LOG
from nbruntime.notebook.magics import known_servers
from nbruntime.runtime import Runtime


def test_key_on_the_line_is_refused(
    shell: InteractiveShell,
    server: ScriptedServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.api_key = "sk-1234"
    for line in ("--api-key sk-1234", "--api_key=sk-1234", "--token sk-1234"):
        for start in (f"%sgl_connect {server.url}", "%sgl_launch"):
            error = usage_error(shell, f"{start} {line}", capsys)
            assert "--api-key-env VARIABLE" in error
            assert "sk-1234" not in error
    error = usage_error(shell, f"%sgl_connect {server.url} --api-key-env sk-1234", capsys)
    assert "sk-1234" not in error
    assert isinstance(failure(shell, f"%sgl_connect {server.url}"), errors.AuthenticationError)
    monkeypatch.setenv("MY_KEY", "sk-1234")
    run(shell, f"%sgl_connect {server.url} --api-key-env MY_KEY -o endpoint")
    run(shell, "%%sgl_generate\nx")
    run(shell, "%sgl_servers")
    run(shell, "%sgl_info")
    shown = capsys.readouterr()
    assert "sk-1234" not in shown.out + shown.err


def test_launch_with_a_key_of_its_own(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("--api-key auto -o runtime", "--api_key=auto -o again"):
        run(shell, f"%sgl_launch --engine fake --name one {line}")
    runtime, again = shell.user_ns["runtime"], shell.user_ns["again"]
    key = runtime.endpoint.api_key
    assert key not in (None, "auto")
    assert (again.pid, again.endpoint.api_key) == (runtime.pid, key)
    run(shell, "%%sgl_generate\nx")
    run(shell, "%sgl_info")
    run(shell, "%sgl_servers")
    shown = capsys.readouterr()
    assert "Hello world" in shown.out
    assert key not in shown.out + shown.err
    error = usage_error(shell, "%sgl_launch --api-key auto --api-key-env MY_KEY", capsys)
    assert "Leave one of them out" in error
    error = usage_error(shell, f"%sgl_connect {runtime.url} --api-key auto", capsys)
    assert "Did you mean --api-key-env?" in error


def test_cell_finds_the_key_of_a_server_of_another_kernel(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    run_elsewhere('Runtime(engine="fake", port=0, name="theirs", keep_alive=True, api_key="auto")')
    run(shell, "%%sgl_generate --endpoint theirs\nx")
    assert "Hello world" in capsys.readouterr().out
    run(shell, "%sgl_stop theirs")


def test_launch_use_log_and_stop(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    launch = "%sgl_launch --engine fake --name first --say hello --children 1 -o runtime"
    run(shell, launch)
    runtime = shell.user_ns["runtime"]
    assert isinstance(runtime, Runtime)
    assert f"first is ready ({runtime.url})." in capsys.readouterr().out
    run(shell, launch)  # again: the same server
    assert shell.user_ns["runtime"].pid == runtime.pid
    run(shell, "%%sgl_generate\nx")
    assert "Hello world, grüße!" in capsys.readouterr().out
    run(shell, "%sgl_info")
    assert "--say=hello" not in capsys.readouterr().err
    run(shell, "%sgl_logs -n 100")
    assert "hello" in capsys.readouterr().out.splitlines()
    run(shell, "%sgl_logs -n 1")
    assert "hello" not in capsys.readouterr().out.splitlines()
    for none in (0, -3):
        run(shell, f"%sgl_logs -n {none}")
        assert capsys.readouterr().out == ""
    run(shell, "%sgl_servers")
    assert "this kernel" in capsys.readouterr().out
    error = failure(shell, "%sgl_launch --engine fake --name first --say other")
    assert "first" in str(error)
    run(shell, "%sgl_use first")
    run(shell, "%sgl_stop first")
    assert runtime.phase == "stopped"
    assert "Ended: first." in capsys.readouterr().out
    run(shell, "%sgl_stop runtime")
    assert "Ended: none." in capsys.readouterr().out
    run(shell, "%sgl_logs runtime -n 100")  # the variable is still there
    assert "hello" in capsys.readouterr().out.splitlines()
    assert isinstance(failure(shell, "%%sgl_generate\nx"), errors.ServerConnectionError)
    assert "%sgl_logs runtime" in capsys.readouterr().out


def test_stop_all(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, "%sgl_launch --engine fake --name one")
    run(shell, "%sgl_launch --engine fake --name two --say x")
    capsys.readouterr()
    run(shell, "%sgl_stop orphans")
    assert "none" in capsys.readouterr().out
    run(shell, "%sgl_stop all")
    shown = capsys.readouterr().out
    assert "one" in shown
    assert "two" in shown
    assert named_servers(shell) == {}
    assert isinstance(failure(shell, "%sgl_stop one"), errors.ArgumentValueError)


def test_stop_leaves_the_servers_of_other_kernels(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    run_elsewhere('Runtime(engine="fake", port=0, name="theirs", keep_alive=True)')
    run(shell, "%sgl_launch --engine fake --name one")
    run(shell, "%sgl_launch --engine fake --name theirs --keep-alive")
    capsys.readouterr()
    for line in ("%sgl_stop", "%sgl_stop all"):
        run(shell, line)
        said = capsys.readouterr().out
        assert said.startswith(f"Ended: {'one' if line == '%sgl_stop' else 'none'}.\n")
        assert "did not start them: theirs. %sgl_stop everywhere stops them too." in said
    run(shell, "%sgl_stop everywhere")
    assert "Ended: theirs (fake/model, kept: process" in capsys.readouterr().out


def test_stop_by_the_name_of_a_variable(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, "%sgl_launch --engine fake --name one -o runtime")
    run(shell, "%sgl_stop runtime")
    assert "Ended: one." in capsys.readouterr().out
    assert shell.user_ns["runtime"].phase == "stopped"


def port_to_take_twice() -> int:
    """A free port that the system gives to nobody who asks for any."""
    for port in random.sample(range(20_000, 30_000), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


def test_ended_server_does_not_hide_a_running_one(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    port = port_to_take_twice()
    before = Runtime(engine="fake", name="same", port=port)
    before.shutdown()
    with Runtime(engine="fake", name="same", port=port) as runtime:
        shell.push({"before": before, "runtime": runtime})
        run(shell, "%%sgl_generate\nx")
        run(shell, "%%sgl_generate --endpoint same\nx")
        run(shell, f"%%sgl_generate --endpoint {runtime.url}\nx")
        capsys.readouterr()
        run(shell, "%sgl_stop before")
        assert "Ended: none." in capsys.readouterr().out
        assert runtime.phase == "ready"
        del shell.user_ns["runtime"]  # as if it were one of another kernel
        run(shell, "%sgl_servers")
        shown = capsys.readouterr().out
        assert "2 servers" in shown
        assert "stopped" in shown
        assert "ready" in shown
        shell.push({"runtime": runtime})
        run(shell, "%sgl_stop same")
        assert "Ended: same." in capsys.readouterr().out
        assert runtime.phase == "stopped"


def test_connecting_does_not_stop_a_server_of_the_same_name(
    shell: InteractiveShell, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run(shell, "%sgl_launch --engine fake --name one")
    runtime = named_servers(shell)["one"]
    assert isinstance(runtime, Runtime)
    run(shell, f"%sgl_connect {runtime.url}")
    run(shell, f"%sgl_connect {runtime.url} --name one")
    assert named_servers(shell) == {"one": runtime}
    error = usage_error(shell, f"%sgl_connect {server.url} --name one", capsys)
    assert "%sgl_stop one" in error
    assert (runtime.phase, named_servers(shell)["one"]) == ("ready", runtime)
    runtime.shutdown()
    run(shell, f"%sgl_connect {server.url} --name one")
    assert isinstance(named_servers(shell)["one"], RuntimeEndpoint)


def test_a_server_of_another_kernel(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    with Runtime(engine="fake", name="elsewhere") as runtime:
        assert "%sgl_use elsewhere" in completions(shell, "%sgl_use e")
        assert "No server is known" in usage_error(shell, "%%sgl_generate\nx", capsys)
        run(shell, "%sgl_use elsewhere")
        run(shell, "%%sgl_generate\nx")
        assert "Hello world" in capsys.readouterr().out
        run(shell, "%sgl_stop elsewhere")
        assert "Ended: elsewhere." in capsys.readouterr().out
        assert runtime.phase in known_servers.ENDED_PHASES
    assert run(shell, "%config SglMagics.endpoint") == ""
    assert named_servers(shell) == {}


def test_follow_ends_with_the_server(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, "%sgl_launch --engine fake --name one --say hello -o runtime")
    stopper = threading.Timer(0.5, shell.user_ns["runtime"].shutdown)
    stopper.start()
    run(shell, "%sgl_logs --follow")  # ends with the server
    stopper.join()
    assert "hello" in capsys.readouterr().out


def test_follow_shows_every_log_line_once(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(shell, "%sgl_launch --engine fake --name one -o runtime")
    runtime = shell.user_ns["runtime"]
    (record,) = [each for each in registry.records() if each.name == "one"]
    log = Path(record.directory, LOG)

    looks, look = threading.Semaphore(0), runtime.logs_since

    def logs_since(*position: int) -> tuple[str, int]:
        seen: tuple[str, int] = look(*position)
        looks.release()
        return seen

    def write() -> None:
        try:
            for text in ("one\ntw", "o\nbar 1%\rbar 2%", "\rbar 3%\nthree\n", "x\nx\nx\nthe rest"):
                assert looks.acquire(timeout=20), "what was written before has not been looked at"
                with log.open("a") as file:
                    file.write(text)
        finally:
            runtime.shutdown()

    monkeypatch.setattr(runtime, "logs_since", logs_since)
    capsys.readouterr()
    writer = threading.Thread(target=write)
    writer.start()
    run(shell, "%sgl_logs -n 0 --follow")
    writer.join()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:7] == ["one", "two", "bar 3%", "three", "x", "x", "x"]
    assert lines[7].startswith("the rest")


def test_launch_failure(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    error = failure(shell, "%sgl_launch --engine fake --fail 'no such model'")
    assert isinstance(error, errors.LaunchError)
    shown = capsys.readouterr().out
    assert "no such model" in shown
    assert "Traceback" not in shown
    assert isinstance(failure(shell, "%sgl_launch --engine embedded --tp-sise 2"), errors.ArgumentTypeError)
    assert "Did you mean 'tp_size'?" in capsys.readouterr().out
    for wrong, meant in {"--hlep": "--help", "--nmae x": "--name", "--keep-alve": "--keep-alive"}.items():
        assert f"Did you mean {meant}?" in usage_error(shell, f"%sgl_launch {wrong}", capsys)


def test_listing_names_the_model_of_every_server(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    run_elsewhere('Runtime(engine="fake", port=0, name="theirs", keep_alive=True)')
    run(shell, "%sgl_launch --engine fake --name one")
    capsys.readouterr()
    run(shell, "%sgl_servers")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {(row[0], row[1], row[2]) for row in rows if "fake/model" in row} == {
        ("one", "fake/model", "fake"),
        ("theirs", "fake/model", "fake"),
    }
    run(shell, "%sgl_stop everywhere")


def test_model_path_option(shell: InteractiveShell) -> None:
    run(shell, "%sgl_launch --engine fake --model-path some/model -o runtime")
    assert shell.user_ns["runtime"]._model == "some/model"


def test_argument_that_is_on_can_be_switched_off(shell: InteractiveShell) -> None:
    error = failure(shell, "%sgl_launch --engine embedded --no-enable-metrics --no-such-argument 1")
    assert "'no_such_argument'" in str(error)  # and not the other one


def test_server_arguments_reach_the_server(shell: InteractiveShell) -> None:
    run(shell, "%sgl_launch --engine fake --say 'a b' --children 0 --ignore-sigterm --port 0 -o runtime")
    argv = shell.user_ns["runtime"].endpoint.get_server_info()["argv"]
    print(argv)
    assert {"--say=a b", "--children=0", "--ignore-sigterm"} <= set(argv)
