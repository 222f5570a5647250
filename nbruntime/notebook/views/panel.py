"""The server panel: a server's identity, load, latencies, fields and log, with buttons to control it.

One thread polls the server while a front end shows the panel. A draw sends only the parts that have changed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ipywidgets
from IPython.display import display

from nbruntime.display.cards import CLASSES, STYLE, Card, Details
from nbruntime.display.charts import CHART_STYLE
from nbruntime.display.html import escape
from nbruntime.display.numbers import time_of_day
from nbruntime.display.server_fields import fields_details, fields_html, fields_of
from nbruntime.display.views import shows_widgets
from nbruntime.launch.phases import ENDED_PHASES
from nbruntime.notebook.views.draw_rate import DRAW_LIMITS, check_range
from nbruntime.notebook.views.live_outputs import LiveOutputs
from nbruntime.notebook.views.output_context import OutputContext, stop_when_run_again
from nbruntime.notebook.views.panel_actions import ServerActions
from nbruntime.notebook.views.widgets import PARTS, PARTS_STYLE, ViewBox, WidgetKit, widget_bundle
from nbruntime.profiling.monitor import ServerMonitor
from nbruntime.profiling.monitor_card import (
    chart_note,
    charts,
    figures_line,
    latencies,
    server_card,
    static_body,
)

if TYPE_CHECKING:
    from nbruntime.endpoint import RuntimeEndpoint
    from nbruntime.profiling.profile import Profile
    from nbruntime.runtime import Runtime

POLL_SECONDS = 5.0
"""Timeout of a poll, for connecting and for reading."""

INTERVAL_LIMITS = (1 / DRAW_LIMITS[1], 3600.0)
"""Limits of the seconds between two polls; each poll is drawn."""

UNREPORTED_SECONDS = 600.0
"""Seconds for which a panel counts as shown before a front end reports it; it cannot while a cell runs."""

LOG_LINES = 40

PANEL_STYLE = """
.nbr-panel>.widget-box,.nbr-panel>.widget-html{margin:0 0 .5em}
.nbr.nbr-panel{max-width:none}.nbr-panel .nbr-charts .widget-html{margin:0}
.nbr-panel .nbr-head tbody{display:block;columns:2 24em;max-width:64em}
.nbr-panel .nbr-head tr{display:flex;break-inside:avoid}
.nbr-panel .nbr-head th{flex:0 0 7em}
.nbr-panel .jupyter-widgets-disconnected::before{display:none}
.nbr-panel.jupyter-widgets-disconnected::before{content:"The kernel has stopped. This is the last state.";
color:inherit;font:inherit;opacity:.7;padding:0}
.nbr-panel .jupyter-button{background:none;color:inherit;height:auto;line-height:1.7;padding:0 .8em;
margin:0 .5em 0 0;border:1px solid var(--jp-border-color1,rgba(128,128,128,.5));border-radius:2px;
box-shadow:none}
.nbr-panel .jupyter-button:hover:enabled,.nbr-panel .jupyter-button:focus:enabled{box-shadow:none;
border-color:currentColor}
.nbr-panel input[type=text]{background:none;color:inherit;border:0;border-radius:0;
border-bottom:1px solid var(--jp-border-color1,rgba(128,128,128,.5))}
""".strip().replace("\n", "")


class ServerPanel(ViewBox):
    """A live panel of one server.

    Display it, or place it in a layout of your own. It survives the server's death, and continues when the
    server is back. When the panel is closed, or its cell runs again, a static card takes its place.

    Parameters
    ----------
    endpoint : RuntimeEndpoint
        The server's client.
    runtime : Runtime, optional
        The server's owner, for the log, the cause of an end, and shutdown.
    interval : float
        Seconds between two polls; from 0.05 to 3600.
    """

    _closed = True  # until __init__ is done
    _frozen = False  # True if the static card stands inside the panel

    def __init__(
        self, endpoint: RuntimeEndpoint, *, runtime: Runtime | None = None, interval: float = 1.0
    ) -> None:
        check_range("interval", interval, INTERVAL_LIMITS)
        self.endpoint = endpoint
        self.runtime = runtime
        self.monitor = ServerMonitor(lambda path: endpoint.get(path, timeout=POLL_SECONDS), interval=interval)
        self.monitor.model_info = dict(endpoint.last_model_info)
        self._lock = threading.Lock()  # guards _poller
        self._drawing = threading.RLock()  # guards the widgets: they are not drawn while being closed
        self._output_context = OutputContext()
        self._poller: threading.Thread | None = None
        self._wake = threading.Event()
        self._outputs = LiveOutputs()
        self._displayed_at: float | None = None
        self._reported = False
        self._fields: dict[str, str] = {}
        self._reopens = False
        self._actions = ServerActions(
            endpoint, runtime, on_close=self._close_by_button, on_result=self._wake.set
        )
        self._ended = self._cause = ""
        parts, classes = self._make_parts(), (*CLASSES, PARTS, "nbr-panel")
        super().__init__(parts, layout=self._kit.layout, _view_count=0, _dom_classes=classes)
        self.observe(self._views_changed, "_view_count")
        self._closed = False
        self._look_at_runtime()
        self.draw()

    def _make_parts(self) -> list[Any]:
        self._kit = kit = WidgetKit()
        self._head, self._note, self._latencies = (kit.html() for _ in range(3))
        self._head.add_class("nbr-head")
        self._charts = kit.row([])
        self._charts.add_class("nbr-charts")
        self._search = kit.keep(
            ipywidgets.Text(
                placeholder="search", continuous_update=True, layout=ipywidgets.Layout(width="20em")
            )
        )
        self._search.observe(lambda _change: self._draw_fields(), "value")
        self._found, self._log = kit.html(), kit.html()
        return [
            kit.html(f"<style>{STYLE}{CHART_STYLE}{PARTS_STYLE}{PANEL_STYLE}</style>"),
            self._head,
            self._charts,
            self._note,
            self._latencies,
            *self._actions.make(kit),
            *kit.folded("server info", kit.box([self._search, self._found])),
            *(kit.folded("log", kit.box([self._log])) if self.runtime is not None else ()),
        ]

    # Showing

    def _ipython_display_(self) -> None:
        if self._reopens:
            self._reopen()
        if not self._closed and not shows_widgets():
            self._look_at_runtime()
            self.monitor.poll()
            self.draw()
        if self._closed or not shows_widgets():
            display(self.card().mimebundle(), raw=True)
            return
        stop_when_run_again(self)
        with self._drawing:
            self._displayed_at = time.monotonic()
            self._outputs.show(self._repr_mimebundle_())
        self._start_polling()

    def _repr_mimebundle_(
        self, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> dict[str, Any]:
        """Return the live panel, and its current content as text and HTML."""
        bundle = {} if self._closed else widget_bundle(self)
        bundle |= self.card().mimebundle()
        kept = set(bundle if include is None else include) - set(exclude or ())
        return {mime: form for mime, form in bundle.items() if mime in kept}

    def card(self) -> Card:
        """Return a static card of what the panel shows, with the time of the last answer."""
        details = [fields_details(self._fields)] if self._fields else []
        if self.runtime is not None:
            details.append(Details("log", text=self.runtime.logs(LOG_LINES)))
        card, monitor = self._head_card(details), self.monitor
        if card.tone == "good" and monitor.answered_at is not None:
            answered = time_of_day(monitor.answered_at, day=True)
            card = replace(card, state=f"answered at {answered}", tone="idle")
        return replace(card, body=static_body(monitor), plain=figures_line(monitor))

    def draw(self) -> None:
        """Update every part; only changes are sent."""
        with self._drawing:
            if not self._closed:
                self._draw()

    def _draw(self) -> None:
        monitor = self.monitor
        self._head.value = self._head_card().inner_html()
        drawn = charts(monitor)
        if len(drawn) != len(self._charts.children):
            before = self._charts.children
            self._charts.children = [self._kit.html() for _ in drawn]
            for chart in before:
                chart.close()
        for chart, value in zip(self._charts.children, drawn, strict=True):
            chart.value = value
        self._note.value = chart_note(monitor)
        self._latencies.value = latencies(monitor)
        fields = fields_of(monitor.server_info)
        if fields != self._fields:
            self._fields = fields
            self._draw_fields()
        if self.runtime is not None:
            self._log.value = f"<pre>{escape(self.runtime.logs(LOG_LINES))}</pre>"
        self._actions.enable(not self._ended and monitor.gone_since is None)

    def _head_card(self, details: Iterable[Details] = ()) -> Card:
        pid = None if self.runtime is None else self.runtime.pid
        url = self.endpoint.base_url
        return server_card(
            self.monitor, url, ended=self._ended, cause=self._cause, pid=pid, details=list(details)
        )

    def _draw_fields(self) -> None:
        self._search.placeholder = f"search {len(self._fields)} fields"
        self._found.value = fields_html(self._fields, self._search.value)

    @property
    def profile(self) -> Profile | None:
        """The profile of the button Start profile; complete when its recording has ended."""
        return self._actions.profile

    # Polling

    @property
    def shown(self) -> bool:
        """Whether a front end shows the panel, or may not have reported it yet."""
        if self._closed:
            return False
        if self._reported:
            return bool(self._view_count)
        since = self._displayed_at
        return since is not None and time.monotonic() - since < UNREPORTED_SECONDS

    @property
    def polling(self) -> bool:
        """Whether the server is being polled."""
        return self._poller is not None

    def _views_changed(self, _change: Any) -> None:
        self._reported = True
        self._wake.set()
        self._start_polling()

    def _start_polling(self) -> None:
        with self._lock:
            if self._poller is None and self.shown:
                self._poller = self._output_context.start_thread(self._keep_polling, "nbruntime-panel")

    def _keep_polling(self) -> None:
        due = time.monotonic()
        try:
            while self._may_go_on():
                self._look_at_runtime()
                if self._ended:  # another server may have its address
                    self.monitor.end()
                else:
                    self._poll()
                self.draw()
                due = max(due + self.monitor.interval, time.monotonic())
                self._wake.wait(due - time.monotonic())
                self._wake.clear()
        except BaseException:
            self._poller = None  # so that it can be started again
            raise

    def _poll(self) -> None:
        first = not self.monitor.asked
        self.monitor.poll()
        with self._drawing:
            if first and not self._closed:  # else a saved notebook would show 'not asked yet'
                self.draw()
                self._outputs.replace(self._repr_mimebundle_())

    def _look_at_runtime(self) -> None:
        """Record the end of an owned server, which does not come back."""
        runtime = self.runtime
        if runtime is not None and runtime.phase in ENDED_PHASES:
            self._ended = f"{runtime.phase}, seen at {time_of_day(time.time())}"
            self._cause = runtime.exit_cause

    def _may_go_on(self) -> bool:
        with self._lock:
            if not self.shown or self._ended:
                self._poller = None
            return self._poller is not None

    # Closing

    def close(self) -> None:
        """Stop polling, and leave a static card in the cells; called again, close a card inside the panel."""
        if self._frozen:
            self._close_widgets()
        else:
            self._end(in_layout=False)

    def _end(self, *, in_layout: bool) -> None:
        """Do as `close` does; in a layout, the card stands inside the panel."""
        if self._closed:
            return
        self._closed = True
        self._actions.end_profile()
        with self._drawing:
            bundle = self.card().mimebundle()
            self._outputs.replace(bundle)
            self._frozen = in_layout or self._outputs.fixed
            if self._frozen:
                self._kit.freeze(self, bundle["text/html"])
            else:
                self._close_widgets()
            self._outputs = LiveOutputs()
        self._wake.set()

    def _close_widgets(self) -> None:
        super().close()
        self._kit.close()
        self._frozen = False

    def _close_by_button(self) -> None:
        """Close the panel; front ends have said how often they show it."""
        self._end(in_layout=(self._view_count or 0) > len(self._outputs))

    def stop(self) -> None:
        """Close the panel because its cell runs again; showing it again reopens it."""
        self._reopens = not self._closed
        self.close()

    def _reopen(self) -> None:
        with self._drawing:
            self._fields, self._view_count = {}, 0
            frozen = self._kit
            self.children, self.layout = self._make_parts(), self._kit.layout
            frozen.close()
            self._reopens = self._closed = self._reported = self._frozen = False
            self.draw()
            self.open()
