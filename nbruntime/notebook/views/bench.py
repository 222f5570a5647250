"""The live view of a load test: a bar, the figures so far, and a Stop button where it can work."""

from __future__ import annotations

from functools import partial
from types import TracebackType
from typing import Any, Self

import ipywidgets

from nbruntime.display.cards import CLASSES, STYLE, Card
from nbruntime.display.html import escape
from nbruntime.errors import NbruntimeError
from nbruntime.launch.phases import Phase, bar
from nbruntime.notebook.views.live_outputs import LiveOutputs
from nbruntime.notebook.views.output_context import OutputContext, stop_when_run_again
from nbruntime.notebook.views.widgets import PARTS, PARTS_STYLE, WidgetKit, widget_bundle
from nbruntime.profiling.bench.progress import BenchProgress
from nbruntime.profiling.bench.running import RunningBench

BY_INTERRUPT = "Kernel > Interrupt stops it and keeps what was measured."

BENCH_STYLE = """
.nbr-bench .widget-html,.nbr-bench .widget-html-content{margin:0}
.nbr.nbr-bench button.nbr-stop{width:auto;height:auto;align-self:flex-start;margin:.35em 0 0;
padding:0 .8em;line-height:1.8;border:1px solid rgba(128,128,128,.6);border-radius:2px;background:none;
color:inherit;box-shadow:none}
.nbr.nbr-bench button.nbr-stop:hover{border-color:currentColor}
""".strip().replace("\n", "")


class BenchView:
    """Context manager that shows a load test while it runs; it is called with every progress.

    A cell that waits for the load test is stopped by Kernel > Interrupt: a button would not be heard. It
    leaves a line; of a load test that does not block, the view's place is taken by the result.

    Parameters
    ----------
    running : RunningBench
        The load test.
    """

    def __init__(self, running: RunningBench) -> None:
        self._running = running
        self._output_context = OutputContext()
        self._outputs = LiveOutputs()
        self._progress: BenchProgress | None = None
        self._kit = kit = WidgetKit()
        self._head = kit.html(self.live_card().inner_html())
        parts = [kit.html(f"<style>{STYLE}{PARTS_STYLE}{BENCH_STYLE}</style>"), self._head]
        if running.blocking:
            parts.append(kit.html(f'<div class="nbr-quiet">{escape(BY_INTERRUPT)}</div>'))
        else:
            parts.append(self._make_stop())
            stop_when_run_again(self)
        self._box = box = kit.box(parts)
        box._dom_classes = (*CLASSES, PARTS, "nbr-bench")

    def __enter__(self) -> Self:
        bundle = widget_bundle(self._box) | self.live_card().mimebundle()
        self._output_context.run(self._outputs.show, bundle)
        return self

    def __call__(self, progress: BenchProgress) -> None:
        """Draw the progress."""
        self._progress = progress
        self._head.value = self.live_card().inner_html()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._outputs.end(self.final_bundle(error), self._box, self._kit)

    def live_card(self) -> Card:
        """Return the card that is shown while the load test runs."""
        progress = self._progress
        if progress is None:
            return Card("Load test", state="starting", tone="busy")
        state = progress.load
        if progress.runs > 1:
            state = f"{state}, run {progress.run} of {progress.runs}"
        body = bar(Phase("", progress.share, 1.0))
        return Card("Load test", progress.label, state, "busy", progress.figures(), body=body)

    def final_bundle(self, error: BaseException | None = None) -> dict[str, Any]:
        """Return what takes the view's place."""
        if isinstance(error, NbruntimeError):
            return error._card().mimebundle()
        if error is not None:
            return Card("Load test", state=f"failed: {type(error).__name__}", tone="bad").mimebundle()
        result = self._running.partial_result()
        if not self._running.blocking:
            return result._card().mimebundle()
        requests = sum(len(run.requests) for run in result.runs)
        pairs: list[tuple[str, object]] = [("runs", len(result.runs)), ("requests", f"{requests:,}")]
        stopped = any(run.interrupted for run in result.runs)
        if stopped:
            return Card("Load test", state="stopped", tone="idle", pairs=pairs).mimebundle()
        return Card("Load test", state="done", tone="good", pairs=pairs).mimebundle()

    def stop(self) -> None:
        """Stop the load test; the view then shows what was measured."""
        self._running.stop()

    def _make_stop(self) -> Any:
        button = self._kit.keep(ipywidgets.Button(description="Stop", tooltip="Keep what was measured"))
        button.add_class("nbr-stop")
        button.on_click(partial(self._stop, button))
        return button

    def _stop(self, button: Any, _clicked: object) -> None:
        button.disabled = True
        self.stop()
