"""The live view of a launch: phase, elapsed time, progress bar and log.

A quick launch shows nothing. At the end a static card takes the view's place: the runtime's, or one with the
reason of the failure.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from IPython.display import DisplayHandle, display

from nbruntime.display.cards import CLASSES, STYLE, Card, Details
from nbruntime.display.html import escape
from nbruntime.display.numbers import duration, elapsed
from nbruntime.errors import LaunchError
from nbruntime.launch.phases import Phase, bar, tone_of
from nbruntime.notebook.views.output_context import OutputContext

if TYPE_CHECKING:
    from nbruntime.runtime import Runtime

QUIET_SECONDS = 0.3
"""Seconds before a view is shown."""

DRAW_SECONDS = 0.25
"""Seconds between two draws."""

LOG_LINES = 20
"""Lines of the folded log."""

LAUNCH_STYLE = ".nbr-launch .widget-html,.nbr-launch .widget-html-content{margin:0}"


class LaunchView:
    """Context manager that shows a launch while it runs; the launcher calls it with every phase.

    Parameters
    ----------
    runtime : Runtime
        Runtime that is being launched.
    quiet : float
        Seconds before the view is shown.

    Examples
    --------
    >>> with LaunchView(runtime) as view:  # doctest: +SKIP
    ...     view(Phase("loading weights"))
    """

    def __init__(self, runtime: Runtime, *, quiet: float = QUIET_SECONDS) -> None:
        self._runtime = runtime
        self._quiet = quiet
        self._phase = Phase("starting")
        self._began = time.monotonic()
        self._over = threading.Event()
        self._drawer: threading.Thread | None = None
        self._handle: DisplayHandle | None = None
        self._kit: Any = None

    def __call__(self, phase: Phase) -> None:
        """Set the phase; it is drawn within a quarter of a second."""
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
        bundle = self._last_bundle(error)
        if self._handle is not None:
            self._handle.update(bundle, raw=True)
            self._kit.close()
        elif isinstance(error, LaunchError):
            display(bundle, raw=True)
        if isinstance(error, LaunchError):
            shorten(error)

    def live_card(self) -> Card:
        """Return the card that is shown while the launch runs."""
        state = f"{self._phase}, {elapsed(time.monotonic() - self._began)}"
        return replace(self._runtime._card(), state=state, tone="busy", body=bar(self._phase), details=())

    def ended_card(self, error: BaseException | None) -> Card:
        """Return the card of a launch that ended with an error or an interrupt."""
        log = self._runtime.logs(LOG_LINES)
        pairs: list[tuple[str, object]] = []
        if isinstance(error, LaunchError):
            state, tone = error.cause or error.message, tone_of("failed")
            log = "\n".join(error.log_lines) or log
            pairs = [("what", error.message if error.cause else None), ("to do", _hint(error))]
        elif isinstance(error, KeyboardInterrupt):
            state, tone = "interrupted", tone_of("interrupted")
        else:
            state, tone = f"failed: {type(error).__name__}", tone_of("failed")
        if not isinstance(error, LaunchError):
            pairs.append(("phase", self._phase))
        pairs.append(("after", duration(time.monotonic() - self._began)))
        card = self._runtime._card()
        own = [pair for pair in card.pairs if pair[0] == "engine"]
        arguments = [each for each in card.details if each.rows]
        details = [Details("log", text=log), *arguments]
        return replace(card, state=state, tone=tone, pairs=[*pairs, *own], details=details)

    def _last_bundle(self, error: BaseException | None) -> dict[str, Any]:
        if error is None:
            return self._runtime._repr_mimebundle_()
        return self.ended_card(error).mimebundle()

    def _keep_drawing(self) -> None:
        if self._over.wait(self._quiet):
            return
        from nbruntime.notebook.views.widgets import (  # ipywidgets is slow to import
            PARTS,
            PARTS_STYLE,
            WidgetKit,
        )

        self._kit = kit = WidgetKit()
        head, log = kit.html(self.live_card().inner_html()), kit.html()
        style = kit.html(f"<style>{STYLE}{PARTS_STYLE}{LAUNCH_STYLE}</style>")
        box = kit.box([style, head, *kit.folded("log", log)])
        box._dom_classes = (*CLASSES, PARTS, "nbr-launch")
        bundle = box._repr_mimebundle_() | self.live_card().mimebundle()
        self._handle = display(bundle, raw=True, display_id=True)
        while not self._over.wait(DRAW_SECONDS):
            head.value = self.live_card().inner_html()
            log.value = f"<pre>{escape(self._runtime.logs(LOG_LINES))}</pre>"


def _hint(error: LaunchError) -> str | None:
    """Return the error's hint, unless it only refers to the log, which the card shows."""
    return None if error.hint and "log is below" in error.hint else error.hint


def shorten(error: LaunchError) -> None:
    """Make IPython show an error in two lines: the card shows its log and cause already."""
    first = f"{error.message}: {error.cause}" if error.cause else error.message
    where = f"\nThe log: {error.where}" if error.where else ""
    lines = [f"{type(error).__name__}: {first}{where}"]
    error._render_traceback_ = partial(list, lines)  # type: ignore[attr-defined]  # can be pickled
