"""Live views, the server panel, and the IPython extension with its magics.

Only this package imports IPython and ipywidgets.
"""

from __future__ import annotations

from typing import Any

__all__ = ["show_program"]


def show_program(state: Any, *, block: bool = True) -> None:
    """Show a program of SGLang's frontend language: turns, variables, scores and forks, live while it runs.

    Parameters
    ----------
    state : ProgramState
        Result of ``program.run(...)``, or a fork's state.
    block : bool
        Whether to wait for the end of the program.

    Raises
    ------
    Exception
        The error of the program, if `block`; SGLang only keeps it, as ``state.error()``.

    Examples
    --------
    >>> show_program(chatbot.run(question="Why is the sky blue?", stream=True))  # doctest: +SKIP
    """
    from nbruntime.notebook.views.program import ProgramView

    ProgramView(state).show(block=block)
