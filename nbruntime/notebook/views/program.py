"""The live transcript of a program of SGLang's frontend language.

It reads the interpreter's ``ProgramState`` and does not change it.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from IPython.display import display

from nbruntime.display.cards import STYLE, Card
from nbruntime.display.live_text import CARET
from nbruntime.display.views import shows_widgets
from nbruntime.frontend.program_card import PROGRAM_STYLE, item_html, program_card
from nbruntime.frontend.programs import Branch, program_of
from nbruntime.frontend.transcript import Transcript, read
from nbruntime.notebook.views.output_context import OutputContext, stop_when_run_again

if TYPE_CHECKING:
    from nbruntime.notebook.views.live_outputs import LiveOutputs

DRAW_SECONDS = 0.1  # between two draws
QUIET_SECONDS = 0.1  # a program that ends within them is shown without a live view


class ProgramView:
    """Shows a program of the frontend language: its turns, variables, scores and forks.

    Parameters
    ----------
    state : ProgramState
        Result of ``program.run(...)``, or a fork's state.
    """

    def __init__(self, state: Any) -> None:
        self.state = state
        self._output_context = OutputContext()
        self._over = threading.Event()
        self._outputs: LiveOutputs | None = None  # once the view is shown
        self._program = program_of(state.stream_executor)
        self._branch = self._own_branch()

    def _own_branch(self) -> Branch:
        executor = self.state.stream_executor
        self._program = self._program or program_of(executor)  # known after the first request
        known = None if self._program is None else self._program.branch(executor)
        return known or Branch(executor)

    @property
    def running(self) -> bool:
        """Whether the program is still running."""
        return self._branch.running

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end of the program, at most `timeout` seconds; return True if it has ended."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.running:
            left = 0.02 if deadline is None else min(0.02, deadline - time.monotonic())
            if left <= 0:
                return False
            time.sleep(left)
        return True

    def show(self, *, block: bool = True) -> None:
        """Show the transcript in the cell, live while the program runs.

        Waits for the end of the program if `block`, and always in a terminal; if `block`, raises its error.
        On Kernel > Interrupt, ``%load_ext nbruntime`` also aborts the program's requests.
        """
        self.put_into_cell(block=block)
        if block and self.state.stream_executor.error_ is not None:
            raise self.state.stream_executor.error_

    def put_into_cell(self, *, block: bool) -> None:
        """Do as `show` does, but show the program's error in the card only."""
        if not shows_widgets():
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
        """Stop drawing; the program goes on."""
        self._over.set()

    def card(self) -> Card:
        """Return the current transcript as a card."""
        return program_card(self._look(), self._program)

    def _look(self) -> Transcript:
        self._branch = self._own_branch()
        self._branch.look()
        if self._program is not None:
            self._program.look()
        return read(self._branch, self._program)

    # Live: one widget for the finished items, one for the item that still grows.

    def _begin(self) -> None:
        # ipywidgets is slow to import.
        from nbruntime.notebook.views.live_outputs import LiveOutputs
        from nbruntime.notebook.views.widgets import WidgetKit, widget_bundle

        self._kit = kit = WidgetKit()
        self._title, self._done, self._tail = kit.html(), kit.html(), kit.html()
        self._box = kit.box(
            [kit.html(f"<style>{STYLE}{PROGRAM_STYLE}</style>"), self._title, self._done, self._tail]
        )
        self._box.add_class("nbr")
        self._box.add_class("nbr-program")
        self._draw()
        bundle = widget_bundle(self._box) | self.card().mimebundle()
        self._outputs = LiveOutputs()
        self._output_context.run(self._outputs.show, bundle)

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
            assert self._outputs is not None
            self._outputs.end(self.card().mimebundle(), self._box, self._kit)


def show_state(state: Any) -> None:
    """Show a state that is a cell's last value; for IPython's display formatter.

    Waits for the end of the program unless it was run with ``stream=True``, as SGLang's own repr does.
    """
    if not shows_widgets() or not hasattr(state, "stream_executor"):
        raise NotImplementedError  # IPython then prints the text
    ProgramView(state).put_into_cell(block=not state.stream_executor.stream)


def print_state(state: Any, printer: Any) -> None:
    """Print a state after the program's end; for IPython's plain-text formatter."""
    if not hasattr(state, "stream_executor"):  # from tracing, without a run
        printer.text(f"{type(state).__name__}()")
        return
    view = ProgramView(state)
    view.wait()
    for number, line in enumerate(view.card().text().split("\n")):
        if number:
            printer.break_()
        printer.text(line)
