"""Cells: where an output belongs, and when the cell that made it runs again."""

from __future__ import annotations

import contextvars
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from IPython import get_ipython
from IPython.display import DisplayHandle

_T = TypeVar("_T")


class Stoppable(Protocol):
    """What ends when its cell runs again."""

    def stop(self) -> None:
        """End it without waiting."""


class OutputContext:
    """The cell whose code makes one of these.

    ipykernel keeps in context variables which cell an output belongs to. New threads do not have them,
    and what a thread shows lands in the cell that happens to run; so what works for a cell in another
    thread does it in a copy of the cell's context.

    Examples
    --------
    >>> OutputContext().run(lambda: 6 * 7)
    42
    """

    def __init__(self) -> None:
        self._context = contextvars.copy_context()

    def run(self, function: Callable[..., _T], *arguments: Any, **options: Any) -> _T:
        """Call a function, so that what it shows lands in this cell."""
        return self._context.copy().run(function, *arguments, **options)

    def start_thread(self, function: Callable[[], None], name: str) -> threading.Thread:
        """Start a thread that belongs to this cell, and does not keep the kernel from ending."""
        thread = threading.Thread(target=self._context.copy().run, args=(function,), name=name, daemon=True)
        thread.start()
        return thread


def replace_output(handle: DisplayHandle, bundle: dict[str, Any]) -> None:
    """Show something else in a place, whichever cell it is in.

    Front ends find the place by its id. What executes a notebook without one (nbclient 0.11, for nbconvert)
    hears only what the cell that runs has to say, so that cell says it, and not the one that made the place.
    """
    contextvars.Context().run(handle.update, bundle, raw=True)


def stop_when_run_again(thing: Stoppable) -> None:
    """Stop something when the cell that runs now is run again, or was deleted.

    Front ends tell the kernel which cell they run (``cellId`` in the metadata of ``execute_request``,
    jupyterlab 4.6); where they do not, nothing happens.

    Parameters
    ----------
    thing : Stoppable
        Not kept alive by this.
    """
    shell = get_ipython()
    name = _current_cell(shell)[0]
    if name is None:
        return
    if _watched.get("shell") is not shell:
        shell.events.register("pre_run_cell", _before_cell)
        _watched["shell"] = shell
    _running.setdefault(name, weakref.WeakSet()).add(thing)


_watched: dict[str, Any] = {}
_running: dict[str, weakref.WeakSet[Stoppable]] = {}


def _before_cell(_info: Any) -> None:
    name, deleted = _current_cell(get_ipython())
    for each in (*([] if name is None else [name]), *deleted):
        for thing in _running.pop(each, ()):
            thing.stop()


def _current_cell(shell: Any) -> tuple[str | None, list[str]]:
    """Give the name of the cell that runs, and the names of cells that were deleted since the last one."""
    if not hasattr(shell, "get_parent"):
        return None, []
    metadata = shell.get_parent().get("metadata") or {}
    return metadata.get("cellId"), metadata.get("deletedCells") or []
