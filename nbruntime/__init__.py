"""SGLang's Runtime and RuntimeEndpoint, made for Jupyter.

>>> import nbruntime
>>> nbruntime.__version__.count(".")
2

Importing the package loads next to nothing; a name brings its module when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nbruntime._version import __version__

if TYPE_CHECKING:
    from nbruntime.endpoint import AsyncRuntimeEndpoint, RuntimeEndpoint
    from nbruntime.errors import NbruntimeError
    from nbruntime.generation import (
        AsyncGenerationStream,
        FinishReason,
        Generation,
        GenerationStream,
        Timings,
        Token,
        Usage,
        usage,
    )
    from nbruntime.launch.servers import servers, stop
    from nbruntime.profiling import profiles
    from nbruntime.profiling.bench.bench import bench
    from nbruntime.profiling.bench.results.result import BenchResult
    from nbruntime.profiling.profile import Profile
    from nbruntime.profiling.trace import read_trace
    from nbruntime.runtime import Runtime

_HOMES = {
    "AsyncGenerationStream": "nbruntime.generation",
    "AsyncRuntimeEndpoint": "nbruntime.endpoint",
    "BenchResult": "nbruntime.profiling.bench.results.result",
    "FinishReason": "nbruntime.generation",
    "Generation": "nbruntime.generation",
    "GenerationStream": "nbruntime.generation",
    "NbruntimeError": "nbruntime.errors",
    "Profile": "nbruntime.profiling.profile",
    "Runtime": "nbruntime.runtime",
    "RuntimeEndpoint": "nbruntime.endpoint",
    "Timings": "nbruntime.generation",
    "Token": "nbruntime.generation",
    "Usage": "nbruntime.generation",
    "bench": "nbruntime.profiling.bench.bench",
    "usage": "nbruntime.generation",
    "read_trace": "nbruntime.profiling.trace",
    "servers": "nbruntime.launch.servers",
    "stop": "nbruntime.launch.servers",
}

_MODULES = {
    **{
        name: f"nbruntime.{name}"
        for name in ("endpoint", "errors", "frontend", "generation", "launch", "protocol", "runtime")
    },
    "profiles": "nbruntime.profiling.profiles",
}

__all__ = [
    "AsyncGenerationStream",
    "AsyncRuntimeEndpoint",
    "BenchResult",
    "FinishReason",
    "Generation",
    "GenerationStream",
    "NbruntimeError",
    "Profile",
    "Runtime",
    "RuntimeEndpoint",
    "Timings",
    "Token",
    "Usage",
    "__version__",
    "bench",
    "profiles",
    "read_trace",
    "servers",
    "stop",
    "usage",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    raise AttributeError(f"module 'nbruntime' has no attribute {name!r}")


def load_ipython_extension(shell: Any) -> None:
    """Bring the magics into IPython: ``%load_ext nbruntime``."""
    importlib.import_module("nbruntime.notebook.extension").load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Take the magics away again: ``%unload_ext nbruntime``."""
    importlib.import_module("nbruntime.notebook.extension").unload(shell)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
