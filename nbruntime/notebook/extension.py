"""What ``%load_ext nbruntime`` does, and its undoing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nbruntime.frontend.interruption import calls
from nbruntime.generation import interrupts

_PROGRAM_STATE = ("sglang.lang.interpreter", "ProgramState")
"""SGLang's type, named so that nobody has to import it."""


def load(shell: Any) -> None:
    """Make the magics known to a shell; once is enough.

    Parameters
    ----------
    shell : InteractiveShell
    """
    if _loaded(shell) is not None:
        return
    from nbruntime.notebook.magics.sgl_magics import SglMagics

    magics = SglMagics(shell)
    shell.register_magics(magics)
    if shell.Completer is not None:
        shell.Completer.custom_matchers.append(magics.completer.matcher)
    for formatter, show in _formatters(shell):
        formatter.for_type_by_name(*_PROGRAM_STATE, show)
    for event, function in _EVENTS.items():
        shell.events.register(event, function)


def unload(shell: Any) -> None:
    """Take the magics away again; servers go on, and variables stay.

    Parameters
    ----------
    shell : InteractiveShell
    """
    magics = _loaded(shell)
    if magics is None:
        return
    manager = shell.magics_manager
    for kind, own in magics.magics.items():
        for name, function in own.items():
            if manager.magics[kind].get(name) == function:
                del manager.magics[kind][name]
    manager.registry.pop(type(magics).__name__, None)
    if magics in shell.configurables:
        shell.configurables.remove(magics)
    if shell.Completer is not None and magics.completer.matcher in shell.Completer.custom_matchers:
        shell.Completer.custom_matchers.remove(magics.completer.matcher)
    for event, function in _EVENTS.items():
        shell.events.unregister(event, function)
    for formatter, _ in _formatters(shell):
        formatter.pop(".".join(_PROGRAM_STATE), None)
    magics.forget_result()


def _watch_programs(info: Any) -> None:
    interrupts.watch(calls)


def _unwatch_programs(result: Any) -> None:
    interrupts.unwatch(calls)


_EVENTS = {"pre_run_cell": _watch_programs, "post_run_cell": _unwatch_programs}
"""An interrupt of a cell aborts what programs of the frontend language ask of a model."""


def _formatters(shell: Any) -> list[tuple[Any, Callable[..., None]]]:
    """Give IPython's formatters that programs of the frontend language are shown by, and how."""
    formatter = shell.display_formatter
    return [(formatter.ipython_display_formatter, _show), (formatter.formatters["text/plain"], _print)]


def _show(state: Any) -> None:
    from nbruntime.notebook.views.program import show_state

    show_state(state)


def _print(state: Any, printer: Any, cycle: bool) -> None:
    from nbruntime.notebook.views.program import print_state

    print_state(state, printer)


def _loaded(shell: Any) -> Any:
    return shell.magics_manager.registry.get("SglMagics")
