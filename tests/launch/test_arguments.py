"""Arguments that are checked for both kinds of server, and those of Runtime itself."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbruntime.errors import ArgumentTypeError, ArgumentValueError, LaunchError, PortInUseError
from nbruntime.launch.arguments import OWN_ARGUMENTS
from nbruntime.launch.engines import sglang_arguments
from nbruntime.launch.engines.embedded import EmbeddedServerKind
from nbruntime.launch.engines.sglang import SglangServerKind
from nbruntime.launch.ports import PortClaim
from nbruntime.protocol.server_arguments import EMBEDDED_ARGUMENTS
from nbruntime.runtime import Runtime


def test_secret_environment_variables_are_masked(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "token $HF_TOKEN, password $MY_PASSWORD, $PLAIN"; exit 3\n')
    python.chmod(0o755)
    env = {"HF_TOKEN": "hf_swordfish", "MY_PASSWORD": "hunter2", "PLAIN": "in the clear"}
    with pytest.raises(LaunchError) as caught:
        Runtime("m", engine="sglang", python=python, env=env)
    assert "token ***, password ***, in the clear" in str(caught.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "example.org"])
@pytest.mark.parametrize("engine", ["embedded", "sglang"])
def test_public_host_needs_a_key(engine: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    claimed: list[str] = []

    def claim(host: str, *_: object, **__: object) -> PortClaim:
        claimed.append(host)
        raise PortInUseError("not to be listened on")

    monkeypatch.setattr("nbruntime.launch.launcher.claim_port", claim)
    for reuse in (False, True):
        for key in (None, ""):
            with pytest.raises(ArgumentValueError, match=r"from other machines(.|\n)*api_key="):
                Runtime("m", engine=engine, python=sys.executable, host=host, api_key=key, reuse=reuse)
        assert claimed == []
    with pytest.raises(PortInUseError):
        Runtime("m", engine=engine, python=sys.executable, host=host, port=1, api_key="k")
    assert claimed == [host]


def test_empty_key_is_no_key() -> None:
    for engine in (EmbeddedServerKind("python"), SglangServerKind("python")):
        assert engine.accept({"api_key": "", "admin_api_key": ""}).keys == {}


@given(st.text(min_size=1))
def test_unknown_argument_is_a_type_error(name: str) -> None:
    known = {*sglang_arguments.NAMES, *(argument.name for argument in EMBEDDED_ARGUMENTS)}
    for engine in (EmbeddedServerKind("python"), SglangServerKind("python")):
        if name not in known:
            with pytest.raises(TypeError):
                engine.accept({name: 1})


def test_table_has_every_argument_of_runtime() -> None:
    parameters = inspect.signature(Runtime).parameters.values()
    assert list(OWN_ARGUMENTS) == [one.name for one in parameters if one.kind is not one.VAR_KEYWORD]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"port": "30000"}, ArgumentTypeError, "port must be int or None, not str"),
        ({"port": True}, ArgumentTypeError, "port must be int or None, not bool"),
        ({"name": 5}, ArgumentTypeError, "name must be str or None, not int"),
        ({"launch_timeout": "60"}, ArgumentTypeError, "launch_timeout must be int or float, not str"),
        ({"progress": True}, ArgumentTypeError, "progress must be Callable or Phases or None, not bool"),
        ({"python": 3}, ArgumentTypeError, "python must be str or PathLike or None, not int"),
        ({"model_path": 3}, ArgumentTypeError, "model_path must be str or PathLike or None, not int"),
        ({"reuse": "no"}, ArgumentTypeError, "reuse must be bool, not str"),
        ({"env": ["A"]}, ArgumentTypeError, "env must be Mapping or None, not list"),
        ({"env": {"A": 1}}, ArgumentTypeError, "'A' is mapped to int"),
        ({"env": {1: "A"}}, ArgumentTypeError, "1 is mapped to str"),
        ({"env": {"A=B": "x"}}, ArgumentValueError, r"env\['A=B'\] cannot stand"),
        ({"env": {"": "x"}}, ArgumentValueError, "cannot stand in an environment"),
        ({"env": {"A": "x\0swordfish"}}, ArgumentValueError, "has a NUL character"),
        ({"api_key": 5}, ArgumentTypeError, "api_key must be str or None, not int"),
        ({"api_key": "swordfish\n"}, ArgumentValueError, "The key cannot stand in a header"),
    ],
)
def test_wrong_argument_of_runtime_is_an_error_before_the_launch(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    runtime = Runtime.__new__(Runtime)
    with pytest.raises(error, match=message) as caught:
        runtime.__init__(engine="embedded", **arguments)  # type: ignore[misc]
    assert "swordfish" not in str(caught.value)
    assert repr(runtime) == "Runtime with the default model · starting"
