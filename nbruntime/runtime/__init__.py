"""`Runtime`: a server that ends with its object, and its client."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbruntime.runtime.runtime import Runtime

__all__ = ["Runtime"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("nbruntime.runtime.runtime"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
