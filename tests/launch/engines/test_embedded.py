"""The embedded server: its arguments and its command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbruntime.embedded.arguments import parse_arguments
from nbruntime.errors import ArgumentTypeError, ArgumentValueError
from nbruntime.launch.engines.embedded import EmbeddedServerKind
from nbruntime.launch.ports import PortClaim, claim_port
from nbruntime.protocol.server_arguments import API_KEY_VARIABLE


@pytest.fixture
def claim() -> Iterator[PortClaim]:
    claimed = claim_port("127.0.0.1", 0, listen=True)
    yield claimed
    claimed.close()


def test_arguments_become_flags_of_the_embedded_server(claim: PortClaim, tmp_path: Path) -> None:
    engine = EmbeddedServerKind("/bin/python")
    accepted = engine.accept(
        {
            "model_path": tmp_path,
            "log_level": "error",
            "context_length": 512,
            "disable_radix_cache": True,
            "enable_metrics": False,
            "dtype": None,
            "tp_size": 2,
            "mem_fraction_static": 0.8,
            "api_key": "hunter2",
        }
    )
    assert accepted.ignored == ("tp_size", "mem_fraction_static")
    command = engine.command(accepted, claim)
    assert claim.listener is not None
    assert list(command.argv) == [
        *("/bin/python", "-P", "-m", "nbruntime.embedded"),
        f"--model-path={tmp_path}",
        "--log-level=error",
        "--context-length=512",
        "--disable-radix-cache",
        "--no-enable-metrics",
        "--host=127.0.0.1",
        f"--port={claim.port}",
        f"--fd={claim.listener.fileno()}",
    ]
    assert command.env["NBRUNTIME_API_KEY"] == "hunter2"
    assert command.secrets == ("hunter2",)
    assert "hunter2" not in repr(command) + repr(command.argv)


def test_metrics_are_on_unless_they_are_switched_off(claim: PortClaim) -> None:
    engine = EmbeddedServerKind("python")
    for given, on in (({}, True), ({"enable_metrics": True}, True), ({"enable_metrics": False}, False)):
        argv = engine.command(engine.accept(given), claim).argv
        assert parse_arguments(argv[argv.index("nbruntime.embedded") + 1 :]).enable_metrics is on


@pytest.mark.parametrize(
    ("arguments", "model"),
    [
        ({}, "SmolLM2-135M-Instruct"),
        ({"model_path": "/models/tiny/"}, "/models/tiny/"),
        ({"model_path": "/models/tiny/", "served_model_name": "mine"}, "mine"),
    ],
)
def test_model_is_named_before_the_server_runs(arguments: dict[str, Any], model: str) -> None:
    engine = EmbeddedServerKind("python")
    assert engine.model_of(engine.accept(arguments)) == model


def test_openmp_settings_keep_those_of_the_user(claim: PortClaim, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    engine = EmbeddedServerKind("python")
    environment = engine.command(engine.accept({"threads": 3}), claim).env
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"
    assert environment["GOMP_SPINCOUNT"] == "0"
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["TOKENIZERS_PARALLELISM"] == "false"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert "OMP_NUM_THREADS" not in engine.command(engine.accept({}), claim).env


def test_public_host_needs_a_key_with_an_inherited_socket(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, "")
    with pytest.raises(SystemExit):
        parse_arguments(["--host=0.0.0.0", "--fd=9"])
    assert "no API key is set" in capsys.readouterr().err
    assert parse_arguments(["--host=127.0.0.1", "--fd=9"]).fd == 9


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"context_length": "512"}, ArgumentTypeError, "context_length must be int, not str '512'"),
        ({"context_length": True}, ArgumentTypeError, "context_length must be int, not bool True"),
        ({"disable_radix_cache": 1}, ArgumentTypeError, "disable_radix_cache must be bool, not int 1"),
        ({"dtype": "int3"}, ArgumentValueError, "dtype must be one of auto, float32"),
        ({"log_level": "loud"}, ArgumentValueError, "log_level must be one of debug, info"),
        ({"context_lenght": 1}, ArgumentTypeError, "Did you mean 'context_length'"),
        ({"tp_sise": 1}, ArgumentTypeError, "Did you mean 'tp_size'"),
        ({"keepalive": 1}, ArgumentTypeError, "Did you mean 'keep_alive'"),
        ({"reuze": 1}, ArgumentTypeError, "Did you mean 'reuse'"),
        ({"luanch_timeout": 1}, ArgumentTypeError, "Did you mean 'launch_timeout'"),
        ({"fd": 3}, ArgumentTypeError, "has an argument 'fd'"),
        ({"zzzzzzzz": 3}, ArgumentTypeError, r"sglang\.launch_server --help"),
    ],
)
def test_wrong_argument_is_an_error_before_the_launch(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        EmbeddedServerKind("python").accept(arguments)
