"""The server panel: a server's identity, load, latencies, fields and log, and what can be done to it.

It asks the server once a second, in one thread, and only while a front end shows it. A draw sends the parts
that have changed. When it is closed, or its cell is run again, a static form takes its place.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ipywidgets
from IPython import get_ipython
from IPython.display import DisplayHandle, display

from nbruntime.cards import CLASSES, STYLE, Card, Details
from nbruntime.endpoint.effects import Answer, Ask
from nbruntime.errors import NbruntimeError
from nbruntime.markup import escape
from nbruntime.notebook.charts import CHART_STYLE
from nbruntime.notebook.server_fields import fields_html, fields_of, shown_rows
from nbruntime.notebook.server_figures import (
    chart_note,
    charts,
    clock,
    figures_line,
    latencies,
    server_card,
    static_body,
)
from nbruntime.notebook.server_watch import ServerWatch

if TYPE_CHECKING:
    from nbruntime.endpoint import RuntimeEndpoint
    from nbruntime.runtime import Runtime

POLL_LIMITS = (2.0, 5.0)
"""Seconds to wait for a connection and for an answer to a poll."""

UNREPORTED_SECONDS = 600.0
"""How long a panel counts as shown before a front end has said so: it cannot while a cell runs."""

LOG_LINES = 40
"""Lines of the log that the panel shows."""

ENDED = ("stopped", "died")
"""Phases of a Runtime whose server does not run any more."""

PANEL_STYLE = """
.nbr-panel .widget-html,.nbr-panel .widget-html-content{line-height:inherit;height:auto;overflow:visible;
font-size:inherit}
.nbr-panel>.widget-box,.nbr-panel>.widget-html{margin:0 0 .5em}
.nbr.nbr-panel{max-width:none}.nbr-panel .nbr-charts .widget-html{margin:0}
.nbr-panel .nbr-head tbody{display:block;columns:2 24em;max-width:64em}
.nbr-panel .nbr-head tr{display:flex;break-inside:avoid}
.nbr-panel .nbr-head th{flex:0 0 7em}
.nbr-panel .jupyter-widgets-disconnected::before{display:none}
.nbr-panel.jupyter-widgets-disconnected::before{content:"The kernel has gone: this is what it saw last.";
color:inherit;font:inherit;opacity:.7;padding:0}
.nbr-panel .jupyter-button{background:none;color:inherit;height:auto;line-height:1.7;padding:0 .8em;
margin:0 .5em 0 0;border:1px solid var(--jp-border-color1,rgba(128,128,128,.5));border-radius:2px;
box-shadow:none}
.nbr-panel .jupyter-button:hover:enabled,.nbr-panel .jupyter-button:focus:enabled{box-shadow:none;
border-color:currentColor}
.nbr-panel input[type=text]{background:none;color:inherit;border:0;border-radius:0;
border-bottom:1px solid var(--jp-border-color1,rgba(128,128,128,.5))}
.nbr-panel .nbr-folded{display:none!important}
.nbr-panel .nbr-fold:has(details[open])+.nbr-folded{display:flex!important}
@supports not selector(:has(a)){.nbr-panel .nbr-folded{display:flex!important}}
""".strip().replace("\n", "")
"""A fold is HTML that never changes, so it stays as the reader left it; what it folds comes after it."""


class ServerPanel(ipywidgets.VBox):  # type: ignore[misc]
    """A live panel of one server.

    Display it, or place it in a layout of your own. It survives the server's death, says since when there is
    no answer, and goes on when the server is back.

    Parameters
    ----------
    endpoint : RuntimeEndpoint
        The server's client.
    runtime : Runtime, optional
        The server's owner: gives its log, knows how it ended, and can shut it down.
    interval : float
        Seconds between two polls.

    Examples
    --------
    >>> panel = ServerPanel(endpoint)  # doctest: +SKIP
    >>> panel  # doctest: +SKIP
    """

    def __init__(
        self, endpoint: RuntimeEndpoint, *, runtime: Runtime | None = None, interval: float = 1.0
    ) -> None:
        self.endpoint = endpoint
        self.runtime = runtime
        self.watch = ServerWatch(lambda path: _read(endpoint, path), interval=interval)
        self.watch.model_info = dict(endpoint.model_info)
        self._lock = threading.Lock()
        self._poller: threading.Thread | None = None
        self._wake = threading.Event()
        self._handle: DisplayHandle | None = None
        self._displayed_at: float | None = None
        self._reported = False
        self._closed = False
        self._fields: dict[str, str] = {}
        self._profiling = False
        self._ended = self._cause = ""

        self._head, self._note, self._latencies, self._said = (_html() for _ in range(4))
        self._head.add_class("nbr-head")
        self._charts = ipywidgets.HBox([])
        self._charts.add_class("nbr-charts")
        self._search = ipywidgets.Text(
            placeholder="search", continuous_update=True, layout=ipywidgets.Layout(width="20em")
        )
        self._search.observe(lambda _change: self._draw_fields(), "value")
        self._found, self._log = _html(), _html()
        self._buttons = {
            "flush": self._button("Flush cache", "Empty the KV cache", self._flush),
            "profile": self._button("Start profile", "Start the server's profiler", self._profile),
            "abort": self._button("Abort all", "Stop every request on the server", self._abort),
        }
        if runtime is not None:
            self._buttons["shutdown"] = self._button("Shut down …", "End the server", self._ask_first)
        self._buttons["close"] = self._button("Close panel", "Leave a static picture", self.close)
        self._question = ipywidgets.HBox(
            [
                _html("<span>End the server and all of its requests?</span>&#160;&#160;"),
                self._button("Shut it down", "End the server", self._shut_down),
                self._button("Keep it", "Go on", lambda: self._show_question(False)),
            ],
            layout=ipywidgets.Layout(display="none", align_items="center"),
        )
        super().__init__(
            [
                _html(f"<style>{STYLE}{CHART_STYLE}{PANEL_STYLE}</style>"),
                self._head,
                self._charts,
                self._note,
                self._latencies,
                ipywidgets.HBox(list(self._buttons.values())),
                self._question,
                self._said,
                *_folded("server info", ipywidgets.VBox([self._search, self._found])),
                *(_folded("log", ipywidgets.VBox([self._log])) if runtime is not None else ()),
            ],
            _view_count=0,
            _dom_classes=[*CLASSES, "nbr-panel"],
        )
        self.observe(self._views_changed, "_view_count")
        self._look_at_runtime()
        self.draw()

    # Showing

    def _ipython_display_(self) -> None:
        if self._closed:
            display(self.card().mimebundle(), raw=True)
            return
        _close_earlier(self)
        self._displayed_at = time.monotonic()
        self._handle = display(self._repr_mimebundle_(), raw=True, display_id=True)
        self._start_polling()

    def _repr_mimebundle_(
        self, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> dict[str, Any]:
        """Give the live panel, and beside it what it shows as text and HTML."""
        bundle = self.card().mimebundle()
        if not self._closed:
            bundle["application/vnd.jupyter.widget-view+json"] = {
                "version_major": 2,
                "version_minor": 0,
                "model_id": self.model_id,
            }
        kept = set(bundle if include is None else include) - set(exclude or ())
        return {mime: form for mime, form in bundle.items() if mime in kept}

    def card(self) -> Card:
        """Give what the panel shows, for a place without a kernel: it says when that was.

        Returns
        -------
        Card
        """
        details = []
        if self._fields:
            details.append(
                Details(f"server info, {len(self._fields)} fields", rows=shown_rows(self._fields.items()))
            )
        if self.runtime is not None:
            details.append(Details("log", text=self.runtime.logs(LOG_LINES)))
        card, watch = self._head_card(details), self.watch
        if card.tone == "good" and watch.answered_at is not None:
            card = replace(card, state=f"answered at {clock(watch.answered_at, day=True)}", tone="idle")
        return replace(card, body=static_body(watch), plain=figures_line(watch))

    def draw(self) -> None:
        """Bring every part up to date; what has not changed is not sent."""
        if self._closed:
            return
        watch = self.watch
        self._head.value = self._head_card().inner_html()
        drawn = charts(watch)
        if len(drawn) != len(self._charts.children):
            for chart in self._charts.children:
                chart.close()
            self._charts.children = [_html() for _ in drawn]
        for chart, value in zip(self._charts.children, drawn, strict=True):
            chart.value = value
        self._note.value = chart_note(watch)
        self._latencies.value = latencies(watch)
        fields = fields_of(watch.server_info)
        if fields != self._fields:
            self._fields = fields
            self._draw_fields()
        if self.runtime is not None:
            self._log.value = f"<pre>{escape(self.runtime.logs(LOG_LINES))}</pre>"
        answers = not self._ended and watch.gone_since is None
        for name, button in self._buttons.items():
            button.disabled = not answers and name != "close"
        if not answers:
            self._set_profiling(False)

    def _head_card(self, details: Iterable[Details] = ()) -> Card:
        pid = None if self.runtime is None else self.runtime.pid
        url = self.endpoint.base_url
        return server_card(
            self.watch, url, ended=self._ended, cause=self._cause, pid=pid, details=list(details)
        )

    def _draw_fields(self) -> None:
        self._search.placeholder = f"search {len(self._fields)} fields"
        self._found.value = fields_html(self._fields, self._search.value)

    # Polling

    @property
    def shown(self) -> bool:
        """Whether a front end shows the panel, or has had no chance to say so yet."""
        if self._closed:
            return False
        if self._reported:
            return bool(self._view_count)
        since = self._displayed_at
        return since is not None and time.monotonic() - since < UNREPORTED_SECONDS

    @property
    def polling(self) -> bool:
        """Whether the server is being asked."""
        return self._poller is not None

    def _views_changed(self, _change: Any) -> None:
        self._reported = True
        self._wake.set()
        self._start_polling()

    def _start_polling(self) -> None:
        with self._lock:
            if self._poller is None and self.shown:
                self._poller = threading.Thread(
                    target=self._keep_polling, name="nbruntime-panel", daemon=True
                )
                self._poller.start()

    def _keep_polling(self) -> None:
        due = time.monotonic()
        try:
            while self._may_go_on():
                self._look_at_runtime()
                if self._ended:  # there may be another server at its address
                    self.watch.end()
                else:
                    self.watch.poll()
                self.draw()
                due = max(due + self.watch.interval, time.monotonic())
                self._wake.wait(due - time.monotonic())
                self._wake.clear()
        except BaseException:
            self._poller = None  # so that it can be started again
            raise

    def _look_at_runtime(self) -> None:
        """Note the end of a server that is ours: it does not come back."""
        runtime = self.runtime
        if runtime is not None and runtime.phase in ENDED:
            self._ended = f"{runtime.phase}, seen at {clock(time.time())}"
            self._cause = runtime.exit_cause

    def _may_go_on(self) -> bool:
        with self._lock:
            if not self.shown or self._ended:
                self._poller = None
            return self._poller is not None

    # Doing

    def _button(self, label: str, tooltip: str, action: Callable[[], object]) -> Any:
        button = ipywidgets.Button(description=label, tooltip=tooltip, layout=ipywidgets.Layout(width="auto"))
        button.on_click(lambda _button: action())
        return button

    def _do(self, done: str, action: Callable[[], object]) -> None:
        """Do something to the server in a thread of its own: it may take seconds."""

        def work() -> None:
            try:
                action()
            except NbruntimeError as error:
                first = str(error).splitlines()[0]
                said = f'<span class="nbr-bad">▲</span> {escape(first)}'
            else:
                said = f'<span class="nbr-quiet">{escape(f"{clock(time.time())} {done}")}</span>'
            self._said.value = said
            self._wake.set()

        self._said.value = '<span class="nbr-quiet">…</span>'
        threading.Thread(target=work, name="nbruntime-panel-action", daemon=True).start()

    def _flush(self) -> None:
        self._do("the cache is empty", self.endpoint.flush_cache)

    def _profile(self) -> None:
        start = not self._profiling
        action = self.endpoint.start_profile if start else self.endpoint.stop_profile

        def work() -> None:
            action()
            self._set_profiling(start)

        self._do("the profiler runs" if start else "the profiler has written its traces", work)

    def _set_profiling(self, runs: bool) -> None:
        self._profiling = runs
        self._buttons["profile"].description = "Stop profile" if runs else "Start profile"

    def _abort(self) -> None:
        ask = Ask("POST", "/abort_request", {"rid": "", "abort_all": True}, safe=True, limits=POLL_LIMITS)
        self._do("every request is stopped", lambda: self.endpoint._transport.send(ask))

    def _ask_first(self) -> None:
        self._show_question(True)

    def _show_question(self, ask: bool) -> None:
        self._question.layout.display = "" if ask else "none"

    def _shut_down(self) -> None:
        self._show_question(False)
        if self.runtime is not None:
            self._do("the server is shut down", self.runtime.shutdown)

    # Its end

    def close(self) -> None:
        """Stop asking, and leave a static picture in the cell."""
        if self._closed:
            return
        self._closed = True
        self._wake.set()
        if self._handle is not None:
            self._handle.update(self.card().mimebundle(), raw=True)
        _close_below(self)
        super().close()
        self.__dict__.pop("_repr_mimebundle_", None)  # ipywidgets takes it away


_in_cell: dict[str, tuple[str, list[weakref.ref[ServerPanel]]]] = {}
"""By cell: the execution that has shown panels there, and those panels."""


def _close_earlier(panel: ServerPanel) -> None:
    """Close what an earlier run of this cell has shown."""
    get_parent = getattr(get_ipython(), "get_parent", None)
    parent = get_parent() if get_parent is not None else {}
    cell = parent.get("metadata", {}).get("cellId")
    if not cell:
        return
    execution = parent.get("header", {}).get("msg_id", "")
    before, panels = _in_cell.get(cell, ("", []))
    if before != execution:
        for earlier in panels:
            shown = earlier()
            if shown is not None and shown is not panel:
                shown.close()
        panels = []
    _in_cell[cell] = (execution, [*panels, weakref.ref(panel)])


def _read(endpoint: RuntimeEndpoint, path: str) -> bytes:
    answer = endpoint._transport.send(Ask("GET", path, safe=True, limits=POLL_LIMITS))
    assert isinstance(answer, Answer)
    secret = endpoint.settings.secret
    return secret.scrub(answer.content.decode("utf-8", "replace")).encode() if secret else answer.content


def _html(value: str = "") -> Any:
    return ipywidgets.HTML(value)


def _folded(label: str, inside: Any) -> tuple[Any, Any]:
    """Make a fold that opens without the kernel: a busy one handles no clicks."""
    fold = _html(f"<details><summary>{escape(label)}</summary></details>")
    fold.add_class("nbr-fold")
    inside.add_class("nbr-folded")
    return fold, inside


def _close_below(box: Any) -> None:
    for child in getattr(box, "children", ()):
        _close_below(child)
        with contextlib.suppress(AttributeError):
            child.layout.close()
        child.close()
