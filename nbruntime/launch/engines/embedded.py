"""The embedded server: ``python -m nbruntime.embedded``."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbruntime.errors import ArgumentTypeError, ArgumentValueError, EngineNotFoundError
from nbruntime.launch.engines import sglang_arguments
from nbruntime.launch.engines.server_kind import AcceptedArguments, ServerKind, unknown_argument
from nbruntime.launch.phases import Phase, phase_of
from nbruntime.launch.ports import PortClaim
from nbruntime.launch.readiness import http_status
from nbruntime.launch.supervisor.launch_spec import LaunchSpec
from nbruntime.protocol.server_arguments import (
    ADMIN_API_KEY_VARIABLE,
    API_KEY_VARIABLE,
    DEFAULT_MODEL,
    EMBEDDED_ARGUMENTS,
    Argument,
)

__all__ = ["EmbeddedServerKind"]

_ARGUMENTS = {argument.name: argument for argument in EMBEDDED_ARGUMENTS if argument.name != "fd"}
_KEYS = {"api_key": API_KEY_VARIABLE, "admin_api_key": ADMIN_API_KEY_VARIABLE}


class EmbeddedServerKind(ServerKind):
    """The server of this package: SGLang's protocol on the CPU."""

    name = "embedded"
    takes_listener = True
    watch = "^phase: "
    probe_interval = 1.0
    default_model = DEFAULT_MODEL

    @staticmethod
    def check_installed(why_not_sglang: str = "") -> None:
        """Raise EngineNotFoundError if torch is missing in this environment."""
        if importlib.util.find_spec("torch") is None:
            reason = f"; {why_not_sglang}" if why_not_sglang else ""
            raise EngineNotFoundError(f"The embedded server needs torch, which is not installed{reason}")

    def accept(self, arguments: Mapping[str, Any]) -> AcceptedArguments:
        """Check names, types and choices; arguments that only SGLang has are set aside."""
        values: dict[str, Any] = {}
        ignored = []
        keys = {}
        for name, value in arguments.items():
            if name not in _ARGUMENTS and name not in _KEYS and name not in sglang_arguments.NAMES:
                raise unknown_argument(name, [*_ARGUMENTS, *sglang_arguments.NAMES])
            if value is None or (name in _KEYS and value == ""):  # an empty key is none, for SGLang as well
                continue
            if name in _KEYS:
                keys[name] = str(value)
            elif name in _ARGUMENTS:
                values[name] = _checked(_ARGUMENTS[name], value)
            else:
                ignored.append(name)
        return AcceptedArguments(values, tuple(ignored), keys)

    def command(self, arguments: AcceptedArguments, claim: PortClaim) -> LaunchSpec:
        """Make the command; the server takes over the claim's listening socket."""
        flags: list[str] = []
        for name, value in arguments.values.items():
            if value is True:
                flags.append(_ARGUMENTS[name].flag)
            elif value is not False:
                flags.append(f"{_ARGUMENTS[name].flag}={value}")
            elif _ARGUMENTS[name].default is True:
                flags.append(_ARGUMENTS[name].flag.replace("--", "--no-", 1))
        fds = [claim.listener.fileno()] if claim.listener else []
        flags += [f"--host={claim.host}", f"--port={claim.port}"]  # with --fd for its own reports only
        flags += [f"--fd={fd}" for fd in fds]
        # -P: a file of the notebook's folder must not stand in for a module.
        return LaunchSpec(
            argv=(self.python, "-P", "-m", "nbruntime.embedded", *flags),
            env=_environment(arguments),
            pass_fds=fds,
            watch=self.watch,
            secrets=tuple(arguments.keys.values()),
        )

    def read_phase(self, line: str) -> Phase | None:
        """Read ``phase: NAME`` with or without progress."""
        return phase_of(line)

    def is_ready(self, url: str, timeout: float) -> bool:
        """``/health`` answers at once, with 503 until the model can be used."""
        return http_status(f"{url}/health", min(timeout, 0.5)) == 200


def _checked(argument: Argument, value: Any) -> Any:
    """Return the value if it has the argument's type and is one of its choices."""
    if argument.type is str and isinstance(value, os.PathLike):
        value = os.fspath(value)
    allowed = int | float if argument.type is float else argument.type
    # A bool is an int, too.
    if not isinstance(value, allowed) or (isinstance(value, bool) and argument.type is not bool):
        raise ArgumentTypeError(
            f"{argument.name} must be {argument.type.__name__}, not {type(value).__name__} {value!r}"
        )
    if argument.choices and value not in argument.choices:
        raise ArgumentValueError(
            f"{argument.name} must be one of {', '.join(argument.choices)}, not {value!r}"
        )
    return value


def _environment(arguments: AcceptedArguments) -> dict[str, str | None]:
    environment: dict[str, str | None] = {
        "PYTHONUNBUFFERED": "1",
        "MPLBACKEND": None,  # a kernel's backend means nothing outside of it
        "TOKENIZERS_PARALLELISM": "false",
    }
    # Threads that spin while they wait would starve the kernel, and each other when it wants a core.
    threads = arguments.values.get("threads") or len(os.sched_getaffinity(0))
    openmp = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "OMP_NUM_THREADS": str(threads)}
    environment |= {name: value for name, value in openmp.items() if name not in os.environ}
    for name, variable in _KEYS.items():
        environment[variable] = arguments.keys.get(name)
    # A source tree that is on the path of the notebook only must be found by the server, too.
    root = Path(__file__).parents[3]
    if root.name not in ("site-packages", "dist-packages"):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    return environment
