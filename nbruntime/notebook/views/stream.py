"""The live view of a running generation.

Text that can no longer change is drawn once; a draw sends only the growing tail, so its size does not grow
with the answer. At the end a static form takes the view's place, which needs neither kernel nor widgets.
"""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from functools import partial
from typing import Any, Self

import ipywidgets

from nbruntime.display.answer_style import LIVE_STYLE
from nbruntime.display.cards import CLASSES, STYLE
from nbruntime.display.views import shows_widgets
from nbruntime.errors import NbruntimeError
from nbruntime.generation import AsyncGenerationStream, Generation, GenerationStream
from nbruntime.generation.answer_html import answer_bundle, first_line, head
from nbruntime.generation.printing import print_stream
from nbruntime.notebook.views.answer import AnswerView
from nbruntime.notebook.views.draw_rate import DRAW_LIMITS, DRAWS_PER_SECOND, check_range
from nbruntime.notebook.views.live_outputs import LiveOutputs
from nbruntime.notebook.views.output_context import stop_when_run_again
from nbruntime.notebook.views.stream_reader import StreamReader
from nbruntime.notebook.views.widgets import ViewBox, WidgetKit, widget_bundle
from nbruntime.protocol.deltas import Delta

FAST_TEXT = 1200
"""Characters per second above which a view is drawn half as often: too fast to read along."""

WITHOUT_WIDGETS = "Generating. This front end shows no widgets: the answer appears here at its end."

LOOP_WAKES = 0.2
"""Seconds between two wake-ups of an event loop that awaits a view: on an interrupt ipykernel asks the loop
to cancel the cell, but does not wake it (ipykernel 7.4, tornado 6.5)."""


def next_pause(drawn: int, pause: float, interval: float) -> float:
    """Return the seconds until the next draw, from the characters drawn in the last pause."""
    return interval * (2 if drawn > FAST_TEXT * pause else 1)


class StreamView(StreamReader, ViewBox):
    """A widget that shows a generation while it runs.

    `show` displays it in the cell; `start` runs it in a layout of your own. A view that does not block has a
    Stop button; one that blocks is stopped by Kernel > Interrupt. The view belongs to the cell that created
    it, in whichever thread or task it runs, and stops when that cell runs again.

    Parameters
    ----------
    stream : GenerationStream or AsyncGenerationStream
        Stream to show; several answers stand one below the other.
    markdown : bool
        Whether to render the text as markdown.
    draws_per_second : float
        Maximum; from 0.5 to 20.

    Examples
    --------
    >>> view = StreamView(endpoint.stream("Why is the sky blue?"))  # doctest: +SKIP
    >>> answer = view.show()  # doctest: +SKIP
    """

    def __init__(
        self,
        stream: GenerationStream | AsyncGenerationStream,
        *,
        markdown: bool = True,
        draws_per_second: float = DRAWS_PER_SECOND,
    ) -> None:
        check_range("draws_per_second", draws_per_second, DRAW_LIMITS)
        StreamReader.__init__(self, stream, interval=1.0 / draws_per_second)
        self.markdown = markdown
        self._outputs = LiveOutputs()
        self._in_layout = False
        self._closing = False
        self._kit = kit = WidgetKit()
        generations = stream.generations
        self._answers = [
            AnswerView(
                kit,
                title=head(each, generations),
                first=each is generations[0],
                markdown=markdown,
                text=text,
                began=stream.started,
            )
            for each, text in zip(generations, stream.texts_read, strict=True)
        ]
        hidden = ipywidgets.Layout(display="none")
        self._stop_button = kit.keep(
            ipywidgets.Button(description="Stop", tooltip="Stop this generation", layout=hidden)
        )
        self._stop_button.add_class("nbr-stop")
        self._stop_button.on_click(lambda _button: self.stop())
        style = kit.html(f"<style>{STYLE}{LIVE_STYLE}</style>")
        ipywidgets.VBox.__init__(
            self,
            [style, *(answer.box for answer in self._answers), self._stop_button],
            layout=kit.layout,
            _dom_classes=[*CLASSES, "nbr-answers", "nbr-live"],
        )
        stop_when_run_again(self)

    def show(self, *, block: bool = True) -> Generation | list[Generation] | None:
        """Show the view in the cell; its static form takes its place at the end.

        In a terminal or a console the text is printed as it arrives, whether or not `block` is set.

        Parameters
        ----------
        block : bool
            Whether to wait for the end, and return the result; if not, the view has a Stop button.

        Raises
        ------
        GenerationError, KeyboardInterrupt
            As `run`, if `block`.
        """
        if isinstance(self.stream, GenerationStream) and not shows_widgets():
            return self._print(block=block)
        self._put_into_cell()
        if block:
            return self.run()
        super().start()
        return None

    async def show_async(self) -> Generation | list[Generation]:
        """Show the view in the cell, and await the end of the stream as `run_async` does."""
        if shows_widgets():
            self._put_into_cell()
            return await self.run_async()
        try:
            return await self.run_async()
        finally:
            print(self._final_bundle()["text/plain"])
            self.close()

    def start(self) -> Self:
        """Read the stream in its own thread or task, and return the view, for a layout of your own."""
        self._in_layout = True
        return super().start()

    def close(self) -> None:
        """Stop the stream if it is running, and close the widgets; the static form stays in the cell."""
        if self.comm is None or sys.is_finalizing():
            return  # never opened, or closed before; widgets also call this when the interpreter ends
        with self._lock:  # not during _freeze, which reads it once
            self._closing = True
        if not self._done.is_set():
            self.stop()
            if self._started:
                return  # the drawing thread closes them at the end
        self._close_widgets()

    def _put_into_cell(self) -> None:
        # The main thread shows it in the running cell, another thread in the cell that created it.
        in_a_cell = threading.current_thread() is threading.main_thread()
        show = self._outputs.show if in_a_cell else partial(self._output_context.run, self._outputs.show)
        with self._lock:
            if self._done.is_set():
                show(self._final_bundle())
                return
            live = widget_bundle(self) | {"text/plain": WITHOUT_WIDGETS}
            show(live)

    def _print(self, *, block: bool) -> Generation | list[Generation] | None:
        assert isinstance(self.stream, GenerationStream)
        if not self._claim():
            self._done.wait()
            print(self._final_bundle()["text/plain"])
            return self.stream.result() if block else None
        self._close_widgets()
        try:
            return print_stream(self.stream)
        except NbruntimeError as error:
            if block:
                raise
            print(f"[{first_line(error)}]")
            return None
        finally:
            self._done.set()

    def _ipython_display_(self) -> None:
        """Show it without waiting, as the last value of a cell; print it in a terminal or a console."""
        if self._loop is not None and not shows_widgets():
            raise NotImplementedError  # IPython then prints the repr
        self.show(block=False)

    def __repr__(self) -> str:
        return f"StreamView of {self.stream!r}"

    # Called by StreamReader

    def _on_start(self) -> None:
        self._stop_button.layout.display = ""

    def _on_stop(self) -> None:
        self._stop_button.disabled = True

    def _add(self, delta: Delta) -> None:
        self._answers[delta.index].add(delta)

    def _draw_to_the_end(self) -> None:
        pause = self._interval
        try:
            while not self._over.is_set():
                drawn = sum(answer.draw() for answer in self._answers)
                pause = next_pause(drawn, pause, self._interval)
                self._over.wait(pause)
                self._await_change()
        finally:
            with self._lock:  # from here on the view is shown nowhere else
                try:
                    self._freeze()
                finally:
                    self._done.set()

    def _await_change(self) -> None:
        waiting = any(answer.waiting for answer in self._answers)
        while self._waiting_loop is not None and not self._changed.wait(LOOP_WAKES):
            with suppress(RuntimeError):  # it is closed
                self._waiting_loop.call_soon_threadsafe(lambda: None)
            if waiting:
                break
        if self._waiting_loop is None:
            self._changed.wait(1.0 if waiting else None)
        self._changed.clear()

    def _freeze(self) -> None:
        """Replace the view in cells by its static form; elsewhere, show that inside the view."""
        bundle = self._final_bundle()
        self._outputs.replace(bundle)
        only_in_cells = len(self._outputs) and not self._in_layout
        if (self._closing or only_in_cells) and not self._outputs.fixed:
            self._close_widgets()
        else:
            self._kit.freeze(self, bundle["text/html"])

    def _final_bundle(self) -> dict[str, Any]:
        return answer_bundle(
            self.stream.generations, self.stream.error, markdown=self.markdown, ending=self._ending
        )

    def _close_widgets(self) -> None:
        super().close()
        self._kit.close()
