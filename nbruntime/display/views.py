"""Finds live views, since lower floors may not import ``nbruntime.notebook``, and where they can be shown."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

_VIEWS = {
    "stream": "nbruntime.notebook.views.stream:StreamView",
    "launch": "nbruntime.notebook.views.launch:LaunchView",
    "panel": "nbruntime.notebook.views.panel:ServerPanel",
    "bench": "nbruntime.notebook.views.bench:BenchView",
    "reading": "nbruntime.notebook.views.reading:ReadingView",
}


def shows_widgets() -> bool:
    """Return True if the running cell belongs to a front end that may show widgets, and not to a console."""
    shell = _shell()
    return getattr(shell, "kernel", None) is not None and not _is_from_console(running_request())


def running_request() -> dict[str, Any]:
    """Return the message that the kernel is answering, such as a cell to run; empty without a kernel."""
    shell = _shell()
    source = shell if hasattr(shell, "get_parent") else getattr(shell, "kernel", None)  # as in xeus-python
    request: dict[str, Any] = {} if source is None else source.get_parent()
    return request


def view_class(name: str) -> Any:
    """Import the class of a view: one that needs ipywidgets, or ``reading``."""
    module, _, attribute = _VIEWS[name].partition(":")
    return getattr(import_module(module), attribute)


def _shell() -> Any:
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()


def _is_from_console(request: dict[str, Any]) -> bool:
    """Return True if a cell was sent by a console, such as jupyter_console, qtconsole or ``jupyter run``.

    No front end says what it can show. Consoles use jupyter_client, whose message ids begin with the id of
    the session; those of JupyterLab are random. nbclient uses jupyter_client, too, but answers no ``input``.
    """
    header, content = request.get("header") or {}, request.get("content") or {}
    return (
        header.get("msg_type") == "execute_request"
        and str(header.get("msg_id")).startswith(f"{header.get('session')}_")
        and bool(content.get("allow_stdin", True))  # xeus-python does not keep the content
    )
