"""The live view of a running generation.

Blocks that can no longer change are drawn once, and a draw carries only what is still growing: its bytes do
not grow with the answer. When the stream ends, a static form takes the view's place, which needs neither
kernel nor widgets to be read again.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import ipywidgets
from IPython.display import DisplayHandle, display

from nbruntime.cards import STYLE
from nbruntime.errors import NbruntimeError
from nbruntime.generation import Generation, GenerationStream
from nbruntime.generation.record import seconds
from nbruntime.markup import escape
from nbruntime.notebook.answers import LIVE_STYLE, answer_bundle
from nbruntime.notebook.live_text import LiveText

DRAWS_PER_SECOND = 15.0
"""How often a view is drawn at most; more is not seen."""


class StreamView(ipywidgets.VBox):  # type: ignore[misc]
    """A widget that shows a generation while it runs.

    Place it in a layout of your own, or let `show` put it into the cell. It reads the stream when told to:
    in the calling thread (`run`), which Kernel > Interrupt stops, or in a thread of its own (`start`), which
    its Stop button stops.

    Parameters
    ----------
    stream : GenerationStream
        What to show; several answers stand one below the other.
    markdown : bool
        Whether to read the text as markdown.
    draws_per_second : float
        At most.

    Examples
    --------
    >>> view = StreamView(endpoint.stream("Why is the sky blue?"))  # doctest: +SKIP
    >>> answer = view.show()  # doctest: +SKIP
    """

    def __init__(
        self, stream: GenerationStream, *, markdown: bool = True, draws_per_second: float = DRAWS_PER_SECOND
    ) -> None:
        self.stream = stream
        self.markdown = markdown
        self._interval = 1.0 / draws_per_second
        self._texts = [LiveText(markdown=markdown) for _ in stream.texts]
        self._tokens = 0
        self._began = time.monotonic()
        self._first: float | None = None
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._over = threading.Event()
        self._handle: DisplayHandle | None = None
        self._interrupted = False
        # One layout and one style for all pieces: each would be a message of its own.
        self._plain = ipywidgets.Layout(margin="0", width="auto")
        self._look = ipywidgets.HTMLStyle()
        self._settled = [ipywidgets.VBox([], layout=self._plain) for _ in self._texts]
        self._tails = [self._html("") for _ in self._texts]
        self._stop_button = ipywidgets.Button(
            description="Stop",
            tooltip="Stop this generation",
            layout=ipywidgets.Layout(width="auto", display="none"),
        )
        self._stop_button.on_click(lambda _button: self.stop())
        children = [self._html(f"<style>{STYLE}{LIVE_STYLE}</style>")]
        for settled, tail in zip(self._settled, self._tails, strict=True):
            children += [settled, tail]
        super().__init__([*children, self._stop_button])
        self.add_class("nbr")
        self.add_class("nbr-live")

    def run(self) -> Generation | list[Generation]:
        """Read the stream to its end in the calling thread, drawing meanwhile.

        Returns
        -------
        Generation or list of Generation

        Raises
        ------
        GenerationError
            If the stream fails; what had come stays in the view.
        KeyboardInterrupt
            On Kernel > Interrupt; the request is aborted on the server.
        """
        drawer = threading.Thread(target=self._keep_drawing, name="nbruntime-draw", daemon=True)
        drawer.start()
        try:
            with self.stream:
                for delta in self.stream.deltas():
                    with self._lock:
                        self._texts[delta.index].add(delta.text)
                        self._tokens += delta.count
                        if self._first is None:
                            self._first = time.monotonic()
                    self._changed.set()
        except KeyboardInterrupt:
            self._interrupted = True
            raise
        finally:
            self._over.set()
            self._changed.set()
            drawer.join()
            self._finish()
        return self.stream.result()

    def start(self) -> StreamView:
        """Read the stream in a thread of its own; the view has a Stop button meanwhile.

        Returns
        -------
        StreamView
            Itself.
        """
        self._stop_button.layout.display = ""
        threading.Thread(target=self._read_alone, name="nbruntime-read", daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop the generation on the server; what has come stays."""
        self._stop_button.disabled = True
        self._interrupted = True
        self.stream.abort()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end of a view that was started.

        Returns
        -------
        bool
            Whether it has ended.
        """
        return self._over.wait(timeout)

    def show(self, *, block: bool = True) -> Generation | list[Generation] | None:
        """Put the view into the cell; its static form takes its place at the end.

        Parameters
        ----------
        block : bool
            Whether to wait for the end; else `start` is called, and the view has a Stop button.

        Returns
        -------
        Generation or list of Generation, or None
            The result, if it was waited for.
        """
        self._handle = display(self, display_id=True)
        if block:
            return self.run()
        self.start()
        return None

    def _read_alone(self) -> None:
        try:
            self.run()
        except NbruntimeError:
            return  # the view shows it, and stream.error has it

    def _keep_drawing(self) -> None:
        while not self._over.is_set():
            self._changed.wait()
            self._changed.clear()
            self._draw()
            self._over.wait(self._interval)

    def _draw(self) -> None:
        """Send what has changed: one message for each answer, and one for each piece that has settled."""
        last = len(self._texts) - 1
        for number, text in enumerate(self._texts):
            with self._lock:
                settled = text.take_settled()
                tail = text.tail_html()
            if settled:
                box = self._settled[number]
                box.children = (*box.children, *map(self._html, settled))
            running = '<span class="nbr-caret"></span>'
            footer = self._footer() if number == last else ""
            self._tails[number].value = f"{tail}{running}{footer}"

    def _footer(self) -> str:
        """Give the figures so far."""
        if self._first is None:
            return f'<div class="nbr-quiet">waiting, {seconds(time.monotonic() - self._began)}</div>'
        parts = [f"{self._tokens} tokens", f"TTFT {seconds(self._first - self._began)}"]
        elapsed = time.monotonic() - self._first
        if self._tokens > 1 and elapsed > 0.2:
            parts.insert(1, f"{(self._tokens - 1) / elapsed:.1f} tokens/s")
        return f'<div class="nbr-quiet">{escape(" · ".join(parts))}</div>'

    def _finish(self) -> None:
        """Show the end: in the cell the static form, in a layout of somebody's the last state."""
        bundle = answer_bundle(self.stream, markdown=self.markdown, interrupted=self._interrupted)
        if self._handle is not None:
            self._handle.update(bundle, raw=True)
            self.close_all()
            return
        for settled in self._settled:
            settled.children = ()
        for tail in self._tails[1:]:
            tail.value = ""
        self._tails[0].value = bundle["text/html"]
        self._stop_button.layout.display = "none"

    def close_all(self) -> None:
        """Close the view and all of its parts; the static form in the cell stays."""
        for settled in self._settled:
            for piece in settled.children:
                piece.close()
        for child in self.children:
            child.close()
        self.close()

    def _html(self, value: str) -> Any:
        return ipywidgets.HTML(value, layout=self._plain, style=self._look)
