"""What belongs to a notebook: live views, the server panel, and the IPython extension with its magics.

IPython and ipywidgets are imported here and on no floor below.
"""

from __future__ import annotations

from typing import Any

__all__ = ["show_program"]


def show_program(state: Any, *, block: bool = True) -> None:
    """Show a program of SGLang's frontend language: who says what, variables, scores and forks.

    While the program runs, what it shows grows.

    Parameters
    ----------
    state : ProgramState
        What ``program.run(...)`` gives, or one of a fork's states.
    block : bool
        Whether to wait for the end of the program.

    Raises
    ------
    Exception
        What the program failed with, if it was waited for. SGLang's interpreter itself only keeps it, as
        ``state.error()``.

    Examples
    --------
    >>> show_program(chatbot.run(question="Why is the sky blue?", stream=True))  # doctest: +SKIP
    """
    from nbruntime.notebook.views.program import ProgramView

    ProgramView(state).show(block=block)
