"""Which kind of server runs, and what every kind must be able to say about itself."""

from __future__ import annotations

import difflib
import json
import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from nbruntime.errors import ArgumentTypeError, ArgumentValueError, EngineNotFoundError
from nbruntime.launch import engine_probe
from nbruntime.launch.phases import Phase
from nbruntime.launch.ports import PortClaim
from nbruntime.launch.process import ServerCommand

__all__ = ["Engine", "IgnoredArgumentsWarning", "ServerArguments", "resolve_engine", "unknown_argument"]

PROBE_TIMEOUT = 120.0
"""Seconds that another interpreter may take to say whether it has SGLang and a device."""

OWN_ARGUMENTS = (
    "model_path",
    "log_level",
    "launch_timeout",
    "engine",
    "python",
    "env",
    "port",
    "host",
    "api_key",
)
"""What `Runtime` takes by itself; named here for the hint at the nearest name."""


class IgnoredArgumentsWarning(UserWarning):
    """The engine that runs does not have these arguments, but the other one has: it goes on without them."""


@dataclass(frozen=True)
class ServerArguments:
    """What a server is started with, apart from its port.

    Parameters
    ----------
    values : dict
        Server arguments by their Python names, ready to become flags.
    ignored : tuple of str
        Names that only the other engine knows.
    keys : dict
        ``api_key`` and ``admin_api_key``, where given.
    """

    values: dict[str, Any]
    ignored: tuple[str, ...]
    keys: dict[str, str]


class Engine(ABC):
    """One kind of server.

    Parameters
    ----------
    python : str
        Interpreter that runs it.
    why : str
        Why it was chosen, for the repr; empty if it was asked for by name.
    folder : str
        Folder of its package, if known.
    """

    name: ClassVar[str]
    """What ``engine=`` calls it."""

    takes_listener: ClassVar[bool]
    """Whether it takes over a listening socket instead of binding the port itself."""

    watch: ClassVar[str]
    """Regular expression of the lines that `read_phase` wants to see."""

    probe_interval: ClassVar[float]
    """Seconds between two calls of `is_ready` while no line comes."""

    def __init__(self, python: str, why: str = "", folder: str = "") -> None:
        self.python = python
        self.why = why
        self.folder = folder

    @abstractmethod
    def accept(self, arguments: Mapping[str, Any]) -> ServerArguments:
        """Check keyword arguments before anything is started.

        Parameters
        ----------
        arguments : mapping
            By name; None means the server's default.

        Returns
        -------
        ServerArguments

        Raises
        ------
        ArgumentTypeError
            For a name that no engine knows, with the nearest one, or a wrong type.
        ArgumentValueError
            For a value that is not one of the choices.
        """

    @abstractmethod
    def command(self, arguments: ServerArguments, claim: PortClaim) -> ServerCommand:
        """Make the command that starts the server on a port.

        Parameters
        ----------
        arguments : ServerArguments
            From `accept`.
        claim : PortClaim
            Where it is to listen.

        Returns
        -------
        ServerCommand
        """

    @abstractmethod
    def read_phase(self, line: str) -> Phase | None:
        """Say how far the server is by a watched line of its output."""

    @abstractmethod
    def is_ready(self, url: str) -> bool:
        """Ask the server whether it takes requests; returns soon, and never raises when it does not."""


def unknown_argument(name: str, known: Iterable[str]) -> ArgumentTypeError:
    """Make the error for a name that no server knows.

    Parameters
    ----------
    name : str
        As it was given.
    known : iterable of str
        All names there are.

    Returns
    -------
    ArgumentTypeError
        With the nearest name as a hint.

    Examples
    --------
    >>> print(unknown_argument("tp_sise", ["tp_size", "dp_size"]))
    Neither Runtime nor a server has an argument 'tp_sise'
    Did you mean 'tp_size'?
    """
    near = difflib.get_close_matches(name, [*OWN_ARGUMENTS, *known], n=1)
    hint = f"Did you mean {near[0]!r}?" if near else "`python -m sglang.launch_server --help` lists SGLang's."
    return ArgumentTypeError(f"Neither Runtime nor a server has an argument {name!r}", hint=hint)


def resolve_engine(
    engine: str = "auto",
    python: str | os.PathLike[str] | None = None,
    env: Mapping[str, str | None] | None = None,
) -> Engine:
    """Choose the kind of server.

    Parameters
    ----------
    engine : str
        ``"sglang"``, ``"embedded"``, or ``"auto"``: SGLang where it is installed and has a device.
    python : path, optional
        Interpreter of the environment that has the server; default is this one.
    env : mapping, optional
        Additions to the server's environment.

    Returns
    -------
    Engine

    Raises
    ------
    EngineNotFoundError
        If the engine that was asked for is not installed there.
    ArgumentValueError
        If there is no such engine or no such interpreter.

    Examples
    --------
    >>> resolve_engine("embedded").name
    'embedded'
    """
    # Here, because these modules build on this one.
    from nbruntime.launch.embedded_engine import EmbeddedEngine
    from nbruntime.launch.sglang_engine import SglangEngine

    interpreter = _interpreter(python)
    if engine in EXTRA_ENGINES:
        return EXTRA_ENGINES[engine](interpreter)
    if engine not in ("auto", "sglang", "embedded"):
        raise ArgumentValueError(f"engine must be 'auto', 'sglang' or 'embedded', not {engine!r}")
    if engine == "embedded":
        if python is None:
            EmbeddedEngine.check_installed()
        return EmbeddedEngine(interpreter)
    if engine == "sglang":
        # Whoever names it may have a device that we do not know of: its server is all that is asked for.
        folder, why = engine_probe.find_server() if python is None else ("", "")
        if why and not (env and env.get("PYTHONPATH")):
            raise EngineNotFoundError(f"engine='sglang' cannot be used: {why}", where=interpreter)
        return SglangEngine(interpreter, folder=folder)
    found = _look(interpreter, own=python is None, env=env or {})
    if found["device"]:
        return SglangEngine(
            interpreter, why=f"it is installed and has a {found['device']}", folder=found["folder"]
        )
    EmbeddedEngine.check_installed(found["why"])
    return EmbeddedEngine(sys.executable, why=found["why"])


EXTRA_ENGINES: dict[str, type[Engine]] = {}
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
    """Run the probe: here as far as it is cheap, then in a process of the interpreter itself."""
    if own and not env.get("PYTHONPATH"):
        folder, why = engine_probe.find_server()
        if folder and not engine_probe.may_have_device():
            why = "SGLang is installed, but there is no GPU"
        if why:
            return {"folder": folder, "device": "", "why": why}
    environment = {**os.environ, **{name: value for name, value in env.items() if value is not None}}
    for name in (name for name, value in env.items() if value is None):
        environment.pop(name, None)
    nothing = {"folder": "", "device": ""}
    try:
        answer = subprocess.run(
            [interpreter, "-"],
            input=Path(engine_probe.__file__).read_bytes(),
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
