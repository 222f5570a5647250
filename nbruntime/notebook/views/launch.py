"""The live view of a launch: phase, elapsed time, progress bar and log.

A quick launch shows nothing. At the end a static card takes the view's place.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from IPython.display import display

from nbruntime.display.cards import CLASSES, STYLE, Card, Details
from nbruntime.display.html import escape
from nbruntime.display.numbers import duration, elapsed
from nbruntime.errors import LaunchError
from nbruntime.launch.phases import Phase, bar, tone_of
from nbruntime.notebook.views.output_context import OutputContext

if TYPE_CHECKING:
    from nbruntime.notebook.views.live_outputs import LiveOutputs
    from nbruntime.runtime import Runtime

QUIET_SECONDS = 0.3  # before a view is shown
DRAW_SECONDS = 0.25  # between two draws
LOG_LINES = 20
LAUNCH_STYLE = ".nbr-launch .widget-html,.nbr-launch .widget-html-content{margin:0}"


class LaunchView:
    """Context manager that shows a launch while it runs; the launcher calls it with every phase.

    Parameters
    ----------
    runtime : Runtime
        Runtime that is being launched.
    quiet : float
        Seconds before the view is shown.
    """

    def __init__(self, runtime: Runtime, *, quiet: float = QUIET_SECONDS) -> None:
        self._runtime = runtime
        self._quiet = quiet
        self._phase = Phase("starting")
        self._began = time.monotonic()
        self._over = threading.Event()
        self._drawer: threading.Thread | None = None
        self._outputs: LiveOutputs | None = None  # once the view is shown
        self._kit: Any = None
        self._box: Any = None

    def __call__(self, phase: Phase) -> None:
        """Set the phase."""
        self._phase = phase

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._drawer = OutputContext().start_thread(self._keep_drawing, "nbruntime-launch")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._drawer is not None:
            self._drawer.join()
        card = self._runtime._card() if error is None else self.ended_card(error)
        bundle = card.mimebundle()
        if self._outputs is not None:
            self._outputs.end(bundle, self._box, self._kit)
        elif isinstance(error, LaunchError):
            display(bundle, raw=True)
        if isinstance(error, LaunchError):
            _shorten(error)

    def live_card(self) -> Card:
        """Return the card that is shown while the launch runs."""
        state = f"{self._phase}, {elapsed(time.monotonic() - self._began)}"
        return replace(self._runtime._card(), state=state, tone="busy", body=bar(self._phase), details=())

    def ended_card(self, error: BaseException | None) -> Card:
        """Return the card of a launch that ended with an error or an interrupt."""
        log = self._runtime.logs(LOG_LINES)
        tone = tone_of("failed")
        pairs: list[tuple[str, object]] = [("phase", self._phase)]
        if isinstance(error, LaunchError):
            state = error.cause or error.message
            log = "\n".join(error.log_lines) or log
            # The card shows the log, so a hint that only refers to it is left out.
            hint = None if error.hint and "log is below" in error.hint else error.hint
            pairs = [("what", error.message if error.cause else None), ("to do", hint)]
        elif isinstance(error, KeyboardInterrupt):
            state, tone = "interrupted", tone_of("interrupted")
        else:
            state = f"failed: {type(error).__name__}"
        pairs.append(("after", duration(time.monotonic() - self._began)))
        card = self._runtime._card()
        own = [pair for pair in card.pairs if pair[0] == "engine"]
        arguments = [each for each in card.details if each.rows]
        details = [Details("log", text=log), *arguments]
        return replace(card, state=state, tone=tone, pairs=[*pairs, *own], details=details)

    def _keep_drawing(self) -> None:
        if self._over.wait(self._quiet):
            return
        # ipywidgets is slow to import.
        from nbruntime.notebook.views.live_outputs import LiveOutputs
        from nbruntime.notebook.views.widgets import PARTS, PARTS_STYLE, WidgetKit, widget_bundle

        self._kit = kit = WidgetKit()
        head, log = kit.html(self.live_card().inner_html()), kit.html()
        style = kit.html(f"<style>{STYLE}{PARTS_STYLE}{LAUNCH_STYLE}</style>")
        self._box = box = kit.box([style, head, *kit.folded("log", log)])
        box._dom_classes = (*CLASSES, PARTS, "nbr-launch")
        bundle = widget_bundle(box) | self.live_card().mimebundle()
        self._outputs = outputs = LiveOutputs()
        outputs.show(bundle)
        while not self._over.wait(DRAW_SECONDS):
            head.value = self.live_card().inner_html()
            log.value = f"<pre>{escape(self._runtime.logs(LOG_LINES))}</pre>"


def _shorten(error: LaunchError) -> None:
    """Make IPython show an error in two lines: the card shows its log and cause already."""
    first = f"{error.message}: {error.cause}" if error.cause else error.message
    where = f"\nThe log: {error.where}" if error.where else ""
    lines = [f"{type(error).__name__}: {first}{where}"]
    error._render_traceback_ = partial(list, lines)  # type: ignore[attr-defined]  # can be pickled
