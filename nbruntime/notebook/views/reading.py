"""The live view of a reading, such as of a long trace; a quick one shows nothing."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from nbruntime.display.cards import CLASSES, STYLE, Card, Tone
from nbruntime.display.numbers import duration
from nbruntime.launch.phases import Phase, bar

if TYPE_CHECKING:
    from nbruntime.notebook.views.live_outputs import LiveOutputs

DRAW_SECONDS = 0.25  # between two draws


class ReadingView:
    """Context manager that shows a reading while it runs; called with the bytes done and the total.

    Parameters
    ----------
    what : str
        Name of what is read.
    quiet : float
        Seconds before the view is shown.
    """

    def __init__(self, what: str, *, quiet: float) -> None:
        self._what = what
        self._phase = Phase("reading")
        self._began = time.monotonic()
        self._due = self._began + quiet
        self._outputs: LiveOutputs | None = None  # once the view is shown
        self._kit: Any = None
        self._box: Any = None
        self._text: Any = None

    def __call__(self, done: int, total: int) -> None:
        """Set how much is done, and draw it if it is due."""
        self._phase = Phase("reading", round(done / 1e6, 1), round(total / 1e6, 1), "MB")
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + DRAW_SECONDS
        if self._outputs is None:
            self._show()
        else:
            self._text.value = self._card(str(self._phase), "busy", bar(self._phase)).inner_html()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._outputs is None:
            return
        took = duration(time.monotonic() - self._began)
        if error is None:
            card = self._card(f"read in {took}", "good")
        elif isinstance(error, KeyboardInterrupt):
            card = self._card(f"interrupted after {took}", "idle")
        else:
            card = self._card(f"failed: {type(error).__name__}", "bad")
        self._outputs.end(card.mimebundle(), self._box, self._kit)

    def _show(self) -> None:
        # ipywidgets is slow to import.
        from nbruntime.notebook.views.live_outputs import LiveOutputs
        from nbruntime.notebook.views.widgets import PARTS, PARTS_STYLE, WidgetKit, widget_bundle

        card = self._card(str(self._phase), "busy", bar(self._phase))
        self._kit = kit = WidgetKit()
        self._text = kit.html(card.inner_html())
        self._box = kit.box([kit.html(f"<style>{STYLE}{PARTS_STYLE}</style>"), self._text])
        self._box._dom_classes = (*CLASSES, PARTS)
        self._outputs = LiveOutputs()
        self._outputs.show(widget_bundle(self._box) | card.mimebundle())

    def _card(self, state: str, tone: Tone, body: str = "") -> Card:
        return Card("Trace", self._what, state=state, tone=tone, body=body)
