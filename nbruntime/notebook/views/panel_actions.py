"""Buttons of the server panel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ipywidgets

from nbruntime.display.html import escape
from nbruntime.display.numbers import time_of_day
from nbruntime.errors import NbruntimeError
from nbruntime.notebook.views.widgets import WidgetKit

if TYPE_CHECKING:
    from nbruntime.endpoint import RuntimeEndpoint
    from nbruntime.runtime import Runtime


class ServerActions:
    """Buttons that control a server, and a line with the result of the last action.

    Parameters
    ----------
    endpoint : RuntimeEndpoint
        The server's client.
    runtime : Runtime or None
        The server's owner; adds a button to shut it down.
    on_close : callable
        Closes the panel.
    on_result : callable
        Called in the action's thread after each action.
    """

    def __init__(
        self,
        endpoint: RuntimeEndpoint,
        runtime: Runtime | None,
        *,
        on_close: Callable[[], None],
        on_result: Callable[[], None],
    ) -> None:
        self._endpoint = endpoint
        self._runtime = runtime
        self._on_close = on_close
        self._on_result = on_result
        self._profiling = False

    def make(self, kit: WidgetKit) -> list[Any]:
        """Make the widgets; again when the panel is reopened."""
        self._kit = kit
        self.buttons = {
            "flush": self._button("Flush cache", "Empty the KV cache", self._flush),
            "profile": self._button("Start profile", "Start the server's profiler", self._profile),
            "abort": self._button("Abort all", "Stop every request on the server", self._abort),
        }
        if self._runtime is not None:
            self.buttons["shutdown"] = self._button(
                "Shut down …", "End the server", lambda: self._show_question(True)
            )
        self.buttons["close"] = self._button("Close panel", "Leave a static picture", self._on_close)
        self._set_profiling(self._profiling)
        self.question = kit.keep(
            ipywidgets.HBox(
                [
                    kit.html("<span>End the server and all of its requests?</span>&#160;&#160;"),
                    self._button("Shut it down", "End the server", self._shut_down),
                    self._button("Keep it", "Go on", lambda: self._show_question(False)),
                ],
                layout=ipywidgets.Layout(display="none", align_items="center"),
            )
        )
        self.message = kit.html()
        return [kit.row(list(self.buttons.values())), self.question, self.message]

    def enable(self, enabled: bool) -> None:
        """Enable or disable all buttons but Close; without a server no profiler runs."""
        for name, button in self.buttons.items():
            button.disabled = not enabled and name != "close"
        if not enabled:
            self._set_profiling(False)

    def _button(self, label: str, tooltip: str, action: Callable[[], object]) -> Any:
        button = self._kit.keep(
            ipywidgets.Button(description=label, tooltip=tooltip, layout=ipywidgets.Layout(width="auto"))
        )
        button.on_click(lambda _button: action())
        return button

    def _run(self, done: str, action: Callable[[], object]) -> None:
        """Run an action in its own thread, as it may take seconds; `done` is the message if it succeeds."""

        def work() -> None:
            try:
                action()
            except NbruntimeError as error:
                first = str(error).splitlines()[0]
                said = f'<span class="nbr-bad">▲</span> {escape(first)}'
            else:
                said = f'<span class="nbr-quiet">{escape(f"{time_of_day(time.time())} {done}")}</span>'
            self.message.value = said
            self._on_result()

        self.message.value = '<span class="nbr-quiet">…</span>'
        threading.Thread(target=work, name="nbruntime-panel-action", daemon=True).start()

    def _flush(self) -> None:
        self._run("the cache is empty", self._endpoint.flush_cache)

    def _profile(self) -> None:
        start = not self._profiling
        action = self._endpoint.start_profile if start else self._endpoint.stop_profile

        def work() -> None:
            action()
            self._set_profiling(start)

        self._run("the profiler runs" if start else "the profiler has written its traces", work)

    def _set_profiling(self, runs: bool) -> None:
        self._profiling = runs
        self.buttons["profile"].description = "Stop profile" if runs else "Start profile"

    def _abort(self) -> None:
        self._run("every request is stopped", self._endpoint.abort_all)

    def _show_question(self, ask: bool) -> None:
        self.question.layout.display = "" if ask else "none"

    def _shut_down(self) -> None:
        self._show_question(False)
        if self._runtime is not None:
            self._run("the server is shut down", self._runtime.shutdown)
