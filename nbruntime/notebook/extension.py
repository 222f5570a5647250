"""Load and unload the IPython extension (``%load_ext nbruntime``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nbruntime.frontend.interruption import in_flight
from nbruntime.generation import interrupts

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.core.magic_arguments import MagicArgumentParser

    from nbruntime.notebook.magics.sgl_magics import SglMagics

_PROGRAM_STATE = ("sglang.lang.interpreter", "ProgramState")
"""Module and name of SGLang's type, which is not imported here."""


def load(shell: InteractiveShell) -> None:
    """Register magics, completion, formatters and events; does nothing if they are registered already."""
    if _loaded(shell) is not None:
        return
    from nbruntime.notebook.magics.completion import MagicCompleter
    from nbruntime.notebook.magics.ipython_completer import add_matcher, remove_matcher
    from nbruntime.notebook.magics.profile_magics import start_recordings
    from nbruntime.notebook.magics.sgl_magics import SglMagics

    magics = SglMagics(shell)
    undo = magics.undo.callback
    undo(magics.forget_result)
    undo(magics.end_recordings)
    shell.register_magics(magics)
    undo(_remove_magics, shell, magics)
    if shell.Completer is not None:
        add_matcher(shell.Completer, MagicCompleter(_parsers(magics), magics.servers, shell).complete)
        undo(remove_matcher, shell.Completer)
    direct = shell.display_formatter.ipython_display_formatter
    undo(setattr, direct, "enabled", direct.enabled)
    direct.enabled = True  # IPython 7 leaves it out in a terminal, where streams would not be printed
    for formatter, show in _formatters(shell):
        formatter.for_type_by_name(*_PROGRAM_STATE, show)
        undo(formatter.pop, ".".join(_PROGRAM_STATE), None)
    events = [*_EVENTS, ("pre_run_cell", magics.note_cell_begin), ("post_run_cell", magics.note_cell_end)]
    for event, function in events:
        shell.events.register(event, function)
        undo(shell.events.unregister, event, function)
    shell.input_transformers_cleanup.append(start_recordings)
    undo(shell.input_transformers_cleanup.remove, start_recordings)


def unload(shell: InteractiveShell) -> None:
    """Undo `load`, also after a reload of modules; servers, settings and the user's variables stay."""
    magics = _loaded(shell)
    if magics is not None:
        magics.keep_settings()
        magics.undo.close()


def _remove_magics(shell: InteractiveShell, magics: SglMagics) -> None:
    manager = shell.magics_manager
    for kind, own in magics.magics.items():
        for name, function in own.items():
            if manager.magics[kind].get(name) == function:
                del manager.magics[kind][name]
    manager.registry.pop(type(magics).__name__, None)
    if magics in shell.configurables:
        shell.configurables.remove(magics)


def _watch_programs(info: Any) -> None:
    interrupts.watch(in_flight)


def _unwatch_programs(result: Any) -> None:
    interrupts.unwatch(in_flight)


_EVENTS = (("pre_run_cell", _watch_programs), ("post_run_cell", _unwatch_programs))
"""An interrupt of a cell aborts the running requests of frontend-language programs."""


def _parsers(magics: SglMagics) -> dict[str, MagicArgumentParser]:
    """Return the magics' parsers by their names as they are typed, such as ``%sgl_use``."""
    return {
        f"{'%%' if kind == 'cell' else '%'}{name}": function.parser
        for kind, own in magics.magics.items()
        for name, function in own.items()
    }


def _formatters(shell: InteractiveShell) -> list[tuple[Any, Callable[..., None]]]:
    """Return IPython's formatters for program states of the frontend language, and our functions for them."""
    formatter = shell.display_formatter
    return [(formatter.ipython_display_formatter, _show), (formatter.formatters["text/plain"], _print)]


def _show(state: Any) -> None:
    from nbruntime.notebook.views.program import show_state

    show_state(state)


def _print(state: Any, printer: Any, cycle: bool) -> None:
    from nbruntime.notebook.views.program import print_state

    print_state(state, printer)


def _loaded(shell: InteractiveShell) -> Any:
    return shell.magics_manager.registry.get("SglMagics")
