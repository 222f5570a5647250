"""SGLang's own server: ``python -m sglang.launch_server``."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nbruntime.errors import ArgumentTypeError, ArgumentValueError
from nbruntime.launch.engines import sglang_arguments
from nbruntime.launch.engines.server_kind import AcceptedArguments, ServerKind, unknown_argument
from nbruntime.launch.phases import Phase
from nbruntime.launch.ports import PortClaim
from nbruntime.launch.readiness import http_status
from nbruntime.launch.supervisor.launch_spec import LaunchSpec
from nbruntime.protocol.server_arguments import (
    ADMIN_API_KEY_VARIABLE,
    API_KEY_VARIABLE,
    DEFAULT_MODEL,
    EMBEDDED_ARGUMENTS,
)

__all__ = ["SglangServerKind"]

_KEYS = ("api_key", "admin_api_key")

_EMBEDDED = {argument.name for argument in EMBEDDED_ARGUMENTS if argument.name != "fd"}

_DEFAULT_MODEL = f"HuggingFaceTB/{DEFAULT_MODEL}"

# A command line can be read by other users, and SGLang has no other way in for its keys that all of its
# versions know. Under runpy the module is __main__ as with -m, so what it spawns starts the same way.
_WITH_KEYS = f"""\
import os, runpy, sys
for flag, variable in (("--api-key", "{API_KEY_VARIABLE}"), ("--admin-api-key", "{ADMIN_API_KEY_VARIABLE}")):
    key = os.environ.pop(variable, None)
    if key:
        sys.argv.append(f"{{flag}}={{key}}")
runpy.run_module("sglang.launch_server", run_name="__main__", alter_sys=True)
"""

_PROGRESS = r"\s*\d+%.*?\s(?P<done>\d+(?:\.\d+)?)(?P<unit>[kMGT]?)/(?P<total>\d+(?:\.\d+)?)[kMGT]?(?:\s|$)"

_PHASES = {
    rf"(?:Fetching \d+ files|\.(?:safetensors|bin|json|model|txt)):{_PROGRESS}": "downloading",
    rf"[Ll]oading (?:safetensors|(?:pt )?(?:checkpoint )?shards)[^:]*:{_PROGRESS}": "loading weights",
    "Load weight begin": "loading weights",
    "Load weight end|Memory pool end|KV Cache is allocated": "allocating the KV cache",
    "Capture .*[Gg]raph begin|Capturing batches": "capturing CUDA graphs",
    "Uvicorn running on|Application startup complete": "warming up",
    "The server is fired up and ready to roll": "ready",
}
"""What SGLang 0.5.2 to 0.5.23 writes to its log; at ``log_level="error"`` only the progress bars are left."""


class SglangServerKind(ServerKind):
    """SGLang's server, in this environment or in another one."""

    name = "sglang"
    takes_listener = False
    watch = "|".join(re.sub(r"\?P<\w+>", "?:", pattern) for pattern in _PHASES)
    probe_interval = 0.1

    def accept(self, arguments: Mapping[str, Any]) -> AcceptedArguments:
        """Check names; arguments that only the embedded server has are set aside."""
        values: dict[str, Any] = {}
        ignored = []
        keys = {}
        for name, value in arguments.items():
            known = name in sglang_arguments.NAMES
            if not known and name not in _EMBEDDED and not self._has_field(name):
                raise unknown_argument(name, [*sglang_arguments.NAMES, *_EMBEDDED])
            if value is None or (name in _KEYS and value == ""):  # an empty key is none, for SGLang as well
                continue
            if name in _KEYS:
                keys[name] = str(value)
            elif name in _EMBEDDED and not known:
                ignored.append(name)
            elif name in sglang_arguments.FLAGS | sglang_arguments.SWITCHES and not isinstance(value, bool):
                raise ArgumentTypeError(f"{name} must be bool, not {type(value).__name__} {value!r}")
            elif name.startswith("ssl_"):  # its password would stand on the command line
                raise ArgumentValueError(
                    "Runtime serves this machine by plain HTTP",
                    where=name,
                    hint="Start a server with TLS by hand and connect with RuntimeEndpoint(url, verify=...).",
                )
            else:
                values[name] = value
        # The name that the embedded server gives its default model, for the same notebook.
        if values.get("model_path") in (None, DEFAULT_MODEL) and "config" not in values:
            values["model_path"] = _DEFAULT_MODEL
        return AcceptedArguments(values, tuple(ignored), keys)

    def command(self, arguments: AcceptedArguments, claim: PortClaim) -> LaunchSpec:
        """Make the command; SGLang binds the port itself."""
        start = ("-c", _WITH_KEYS) if arguments.keys else ("-m", "sglang.launch_server")
        values = {**arguments.values, "host": claim.host, "port": claim.port}
        flags = [word for name, value in values.items() for word in _flag(name, value)]
        return LaunchSpec(
            argv=(self.python, *start, *flags),
            env={
                "PYTHONUNBUFFERED": "1",
                "MPLBACKEND": None,  # a kernel's backend means nothing outside of it
                API_KEY_VARIABLE: arguments.keys.get("api_key"),
                ADMIN_API_KEY_VARIABLE: arguments.keys.get("admin_api_key"),
            },
            watch=self.watch,
            secrets=tuple(arguments.keys.values()),
        )

    def read_phase(self, line: str) -> Phase | None:
        """Parse what SGLang logs when a phase begins."""
        for pattern, name in _PHASES.items():
            if match := re.search(pattern, line):
                found = match.groupdict()
                if found.get("total"):
                    unit = f"{found['unit']}B" if found["unit"] else "files"
                    return Phase(name, float(found["done"]), float(found["total"]), unit)
                return Phase(name)
        return None

    def is_ready(self, url: str, timeout: float) -> bool:
        """Ask ``/ready``, or on older servers the slow ``/health_generate``; neither needs a key."""
        status = http_status(f"{url}/ready", min(timeout, 1))
        if status == 404:
            status = http_status(f"{url}/health_generate", min(timeout, 20))
        return status == 200

    def _has_field(self, name: str) -> bool:
        """Return True if the installed SGLang has an argument that our table does not have."""
        if not self.folder or not name.isidentifier():
            return False
        field = re.compile(rf"^    {name}\s*:", re.MULTILINE)
        server = Path(self.folder, "srt")
        files = [server / "server_args.py", *(server / "arg_groups" / "fields").glob("*.py")]
        return any(field.search(file.read_text(errors="replace")) for file in files)


def _flag(name: str, value: Any) -> Iterator[str]:
    """Yield the command-line words of one argument."""
    flag = "--" + sglang_arguments.RENAMED.get(name, name).replace("_", "-")
    if value is True:
        yield flag
    elif value is False:
        if name in sglang_arguments.SWITCHES:
            yield "--no-" + flag.removeprefix("--")
    elif isinstance(value, list | tuple | set) and name not in sglang_arguments.JSON:
        if value:
            yield flag
            yield from map(_word, value)
    else:
        as_json = name in sglang_arguments.JSON and not isinstance(value, str)
        word = json.dumps(value) if as_json else _word(value)
        # A value like "-x" would be taken for a flag.
        yield from (f"{flag}={word}",) if re.match(r"-(?!\d)", word) else (flag, word)


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return json.dumps(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
