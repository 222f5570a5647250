"""Which kind of server runs: SGLang or the embedded one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from nbruntime.errors import ArgumentValueError, EngineNotFoundError
from nbruntime.launch.engines import probe
from nbruntime.launch.engines.embedded import EmbeddedServerKind
from nbruntime.launch.engines.server_kind import ServerKind
from nbruntime.launch.engines.sglang import SglangServerKind

__all__ = ["resolve_engine"]

PROBE_TIMEOUT = 120.0  # seconds for another interpreter to look for SGLang and a device


def resolve_engine(
    engine: str = "auto",
    python: str | os.PathLike[str] | None = None,
    env: Mapping[str, str | None] | None = None,
) -> ServerKind:
    """Choose the kind of server by the arguments of `Runtime`.

    Raises
    ------
    EngineNotFoundError, ArgumentValueError
        If that engine is not installed there; if there is no such engine or interpreter.
    """
    interpreter = _interpreter(python)
    if engine in EXTRA_ENGINES:
        return EXTRA_ENGINES[engine](interpreter)
    if engine not in ("auto", "sglang", "embedded"):
        raise ArgumentValueError(f"engine must be 'auto', 'sglang' or 'embedded', not {engine!r}")
    if engine == "embedded":
        if python is None:
            EmbeddedServerKind.check_installed()
        return EmbeddedServerKind(interpreter)
    if engine == "sglang":
        # The caller may have a device that we do not know: only the server is checked.
        folder, why = probe.find_server() if python is None else ("", "")
        if why and not (env and env.get("PYTHONPATH")):
            raise EngineNotFoundError(f"engine='sglang' cannot be used: {why}", where=interpreter)
        return SglangServerKind(interpreter, folder=folder)
    found = _look(interpreter, own=python is None, env=env or {})
    if found["device"]:
        return SglangServerKind(
            interpreter, why=f"it is installed and has a {found['device']}", folder=found["folder"]
        )
    EmbeddedServerKind.check_installed(found["why"])
    return EmbeddedServerKind(sys.executable, why=found["why"])


EXTRA_ENGINES: dict[str, type[ServerKind]] = globals().get("EXTRA_ENGINES", {})  # kept by a reload
"""Further kinds of server by name; the tests put theirs here."""


def _interpreter(python: str | os.PathLike[str] | None) -> str:
    if python is None:
        return sys.executable
    named = os.path.expanduser(os.fspath(python))
    found = shutil.which(named)
    if found is None:
        raise ArgumentValueError(
            f"python={named!r} is not an interpreter",
            hint="Give the file bin/python of the environment that has SGLang.",
        )
    return os.path.abspath(found)


def _look(interpreter: str, *, own: bool, env: Mapping[str, str | None]) -> dict[str, str]:
    """Run the cheap checks here, the others in a process of the interpreter."""
    if own and not env.get("PYTHONPATH"):
        folder, why = probe.find_server()
        if folder and not probe.may_have_device():
            why = "SGLang is installed, but there is no GPU"
        if why:
            return {"folder": folder, "device": "", "why": why}
    changed = {**os.environ, **env}
    environment = {name: value for name, value in changed.items() if value is not None}
    nothing = {"folder": "", "device": ""}
    try:
        answer = subprocess.run(
            [interpreter, "-"],
            input=Path(probe.__file__).read_bytes(),
            capture_output=True,
            env=environment,
            timeout=PROBE_TIMEOUT,
            start_new_session=True,
        )
        found: dict[str, str] = json.loads(answer.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {**nothing, "why": f"{interpreter} did not say in {PROBE_TIMEOUT:g} s whether it has a GPU"}
    except (OSError, ValueError, IndexError):
        return {**nothing, "why": f"{interpreter} could not say whether it has SGLang and a GPU"}
    if not own and found["why"]:
        found["why"] += f" in {interpreter}"
    return found
