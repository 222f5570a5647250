"""Clients of one server: `RuntimeEndpoint`, and `AsyncRuntimeEndpoint` for callers with an event loop.

Floor 2. A client does not start or stop a server: `nbruntime.runtime` does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nbruntime.endpoint.runtime_endpoint import RuntimeEndpoint

if TYPE_CHECKING:
    from nbruntime.endpoint.async_runtime_endpoint import AsyncRuntimeEndpoint

__all__ = ["AsyncRuntimeEndpoint", "RuntimeEndpoint"]


def __getattr__(name: str) -> Any:
    if name == "AsyncRuntimeEndpoint":  # aiohttp is imported only when it is needed
        return importlib.import_module("nbruntime.endpoint.async_runtime_endpoint").AsyncRuntimeEndpoint
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
