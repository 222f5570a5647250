"""What a program of SGLang's frontend language shows of itself: a transcript, live while it runs.

A view of ours over the interpreter's ``ProgramState``, to which nothing is added. ``%load_ext nbruntime``
makes it the way in which IPython shows such states.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from IPython.display import DisplayHandle, display

from nbruntime.display.cards import STYLE, Card
from nbruntime.display.live_text import CARET
from nbruntime.display.views import in_kernel
from nbruntime.frontend.program_card import PROGRAM_STYLE, item_html, program_card
from nbruntime.frontend.programs import Branch, program_of
from nbruntime.frontend.transcript import Transcript, read
from nbruntime.notebook.views.output_context import OutputContext, replace_output, stop_when_run_again

DRAW_SECONDS = 0.1
"""How often a view looks whether there is something new."""

QUIET_SECONDS = 0.1
"""A program that ends by then shows its end at once."""


class ProgramView:
    """Shows a program of the frontend language: its turns, variables, scores and forks.

    Parameters
    ----------
    state : ProgramState
        SGLang's object, as ``program.run(...)`` gives it or one of a fork's.

    Examples
    --------
    >>> state = chatbot.run(question="Why is the sky blue?", stream=True)  # doctest: +SKIP
    >>> ProgramView(state).show()  # doctest: +SKIP
    """

    def __init__(self, state: Any) -> None:
        self.state = state
        self._output_context = OutputContext()
        self._over = threading.Event()
        self._handle: DisplayHandle | None = None
        self._program = program_of(state.stream_executor)
        self._branch = self._own_branch()

    def _own_branch(self) -> Branch:
        executor = self.state.stream_executor
        self._program = self._program or program_of(executor)  # known from the first call of the model on
        known = None if self._program is None else self._program.branch(executor)
        return known or Branch(executor)

    @property
    def running(self) -> bool:
        """Whether there is more to come."""
        return self._branch.running

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end of the program.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most.

        Returns
        -------
        bool
            Whether it has ended.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.running:
            left = 0.02 if deadline is None else min(0.02, deadline - time.monotonic())
            if left <= 0:
                return False
            time.sleep(left)
        return True

    def show(self, *, block: bool = True) -> None:
        """Put the transcript into the cell; while the program runs, it grows there.

        Parameters
        ----------
        block : bool
            Whether to wait for the end. In a terminal it is always waited for.

        Raises
        ------
        NbruntimeError or another
            What the program failed with, if it was waited for.
        KeyboardInterrupt
            On Kernel > Interrupt. With ``%load_ext nbruntime`` it also aborts the model's calls that run.
        """
        self.put_into_cell(block=block)
        if block and self.state.stream_executor.error_ is not None:
            raise self.state.stream_executor.error_

    def put_into_cell(self, *, block: bool) -> None:
        """Do as `show` does, and leave the program's error to the card."""
        if not in_kernel():
            self.wait()
            print(self.card().text())
        elif self.wait(QUIET_SECONDS):
            self._output_context.run(display, self.card().mimebundle(), raw=True)
        elif block:
            self._begin()
            self._draw_to_the_end()
        else:
            self._begin()
            stop_when_run_again(self)
            self._output_context.start_thread(self._draw_to_the_end, "nbruntime-program")

    def stop(self) -> None:
        """Leave the view as it is; the program goes on."""
        self._over.set()

    def card(self) -> Card:
        """Give the transcript as it is now.

        Returns
        -------
        Card
        """
        return program_card(self._look(), self._program)

    def _look(self) -> Transcript:
        self._branch = self._own_branch()
        self._branch.look()
        if self._program is not None:
            self._program.look()
        return read(self._branch, self._program)

    # Live: one widget for what is over, one for what still grows.

    def _begin(self) -> None:
        from nbruntime.notebook.views.widgets import WidgetKit  # ipywidgets: not before it is needed

        self._kit = kit = WidgetKit()
        self._title, self._done, self._tail = kit.html(), kit.html(), kit.html()
        self._box = kit.box(
            [kit.html(f"<style>{STYLE}{PROGRAM_STYLE}</style>"), self._title, self._done, self._tail]
        )
        self._box.add_class("nbr")
        self._box.add_class("nbr-program")
        self._draw()
        bundle = self._box._repr_mimebundle_() | self.card().mimebundle()
        self._handle = self._output_context.run(display, bundle, raw=True, display_id=True)

    def _draw(self) -> None:
        transcript = self._look()
        *over, last = [item_html(item, growing=True) for item in transcript.items] or [CARET]
        self._title.value = program_card(transcript, self._program, whole=False).inner_html()
        self._done.value = "".join(over)
        self._tail.value = last

    def _draw_to_the_end(self) -> None:
        try:
            while self.running and not self._over.wait(DRAW_SECONDS):
                self._draw()
        finally:
            assert self._handle is not None
            replace_output(self._handle, self.card().mimebundle())
            self._kit.close()


def show_state(state: Any) -> None:
    """Show a state as the last line of a cell does; for IPython's display formatter.

    A program that was run with ``stream=True`` is not waited for. Of others SGLang's own repr waits, and so
    does the view.
    """
    if not in_kernel() or not hasattr(state, "stream_executor"):
        raise NotImplementedError  # IPython then takes the text
    ProgramView(state).put_into_cell(block=not state.stream_executor.stream)


def print_state(state: Any, printer: Any) -> None:
    """Print a state, at its end; for IPython's formatter of plain text."""
    if not hasattr(state, "stream_executor"):  # a program that is only traced
        printer.text(f"{type(state).__name__}()")
        return
    view = ProgramView(state)
    view.wait()
    for number, line in enumerate(view.card().text().split("\n")):
        if number:
            printer.break_()
        printer.text(line)
