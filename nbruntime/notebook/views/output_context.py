"""Attach output to the cell that created it, and stop a view when its cell runs again."""

from __future__ import annotations

import contextvars
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from IPython import get_ipython

from nbruntime.display.views import running_request

_T = TypeVar("_T")


class Stoppable(Protocol):
    """A view that is stopped when its cell runs again."""

    def stop(self) -> None:
        """Stop without waiting."""


class OutputContext:
    """The output context of the cell that creates this object.

    ipykernel keeps the cell of an output in context variables. A new thread lacks them, so its output would
    appear in the cell that is running. This object keeps a copy of the context for threads.
    """

    def __init__(self) -> None:
        self._context = contextvars.copy_context()

    def run(self, function: Callable[..., _T], *arguments: Any, **options: Any) -> _T:
        """Call a function whose output goes to this cell."""
        return self._context.copy().run(function, *arguments, **options)

    def start_thread(self, function: Callable[[], None], name: str) -> threading.Thread:
        """Start a daemon thread whose output goes to this cell."""
        thread = threading.Thread(target=self._context.copy().run, args=(function,), name=name, daemon=True)
        thread.start()
        return thread


def stop_when_run_again(view: Stoppable) -> None:
    """Stop a view when the current cell runs again or has been deleted; keeps only a weak reference.

    Does nothing without ``cellId`` in the metadata of ``execute_request`` (jupyterlab 4.6 has it).
    """
    name = _current_cell()[0]
    if name is None:
        return
    shell = get_ipython()
    running = shell.meta.get("nbruntime_views")  # outlives a reload of this module
    if running is None:
        running = shell.meta["nbruntime_views"] = {}
        shell.events.register("pre_run_cell", _before_cell)
    running.setdefault(name, weakref.WeakSet()).add(view)


def _before_cell(_info: Any) -> None:
    running = get_ipython().meta["nbruntime_views"]
    name, deleted = _current_cell()
    for each in (*([] if name is None else [name]), *deleted):
        for view in running.pop(each, ()):
            view.stop()


def _current_cell() -> tuple[str | None, list[str]]:
    """Return the id of the running cell, and the ids of cells deleted since the last one."""
    metadata = running_request().get("metadata") or {}
    return metadata.get("cellId"), metadata.get("deletedCells") or []
