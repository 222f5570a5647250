"""What ``%load_ext nbruntime`` does, and its undoing."""

from __future__ import annotations

from typing import Any


def load(shell: Any) -> None:
    """Make the magics known to a shell; once is enough.

    Parameters
    ----------
    shell : InteractiveShell
    """
    if _loaded(shell) is not None:
        return
    from nbruntime.notebook.magics import SglMagics

    magics = SglMagics(shell)
    shell.register_magics(magics)
    if shell.Completer is not None:
        shell.Completer.custom_matchers.append(magics.completer.matcher)


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
    magics.forget_result()


def _loaded(shell: Any) -> Any:
    return shell.magics_manager.registry.get("SglMagics")
