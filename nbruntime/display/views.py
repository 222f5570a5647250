"""Finds live views by name, since lower floors may not import ``nbruntime.notebook``."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

_VIEWS = {
    "stream": "nbruntime.notebook.views.stream:StreamView",
    "launch": "nbruntime.notebook.views.launch:LaunchView",
    "panel": "nbruntime.notebook.views.panel:ServerPanel",
}


def in_kernel() -> bool:
    """Return True in a Jupyter kernel, whose front end may show widgets.

    Examples
    --------
    >>> in_kernel()
    False
    """
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def view_class(name: str) -> Any:
    """Import the class of a view, and ipywidgets with it: ``stream``, ``launch`` or ``panel``."""
    module, _, attribute = _VIEWS[name].partition(":")
    return getattr(import_module(module), attribute)
