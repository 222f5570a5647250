"""Clients of one server: `RuntimeEndpoint`, and `AsyncRuntimeEndpoint` for callers with an event loop.

Floor 2. A client holds connections and an API key, and nothing of the server's life: starting and
stopping a server is `nbruntime.runtime`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nbruntime.endpoint.runtime_endpoint import RuntimeEndpoint

if TYPE_CHECKING:
    from nbruntime.endpoint.async_runtime_endpoint import AsyncRuntimeEndpoint

__all__ = ["AsyncRuntimeEndpoint", "RuntimeEndpoint"]


def __getattr__(name: str) -> Any:
    if name == "AsyncRuntimeEndpoint":  # aiohttp is not needed by everybody
        return importlib.import_module("nbruntime.endpoint.async_runtime_endpoint").AsyncRuntimeEndpoint
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
