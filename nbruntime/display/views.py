"""Where the lower floors find their views, without importing the floor that makes them.

A stream, an endpoint and a launch have live views in a notebook. ``nbruntime.notebook`` makes them, which
is above everything that they show; here stand only their names.
"""

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
    """Tell whether this process is a Jupyter kernel, whose front end may show widgets.

    Examples
    --------
    >>> in_kernel()
    False
    """
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def view_class(name: str) -> Any:
    """Give the class of a view.

    Parameters
    ----------
    name : str
        ``stream``, ``launch`` or ``panel``.

    Returns
    -------
    type
        Imported now: ipywidgets comes with it.
    """
    module, _, attribute = _VIEWS[name].partition(":")
    return getattr(import_module(module), attribute)
