"""Finds classes of upper floors, such as live views, which lower floors may not import."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_CLASSES = {
    "stream": "nbruntime.notebook.views.stream:StreamView",
    "launch": "nbruntime.notebook.views.launch:LaunchView",
    "panel": "nbruntime.notebook.views.panel:ServerPanel",
    "bench": "nbruntime.notebook.views.bench:BenchView",
    "reading": "nbruntime.notebook.views.reading:ReadingView",
    "recorder": "nbruntime.profiling.recording.recorder:Recorder",
}


def upper_class(name: str) -> Any:
    """Import a class by its name in `_CLASSES`, and what it needs."""
    module, _, attribute = _CLASSES[name].partition(":")
    return getattr(import_module(module), attribute)
