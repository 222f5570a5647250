"""Buttons of the server panel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ipywidgets

from nbruntime.display.html import escape
from nbruntime.display.numbers import time_of_day
from nbruntime.display.upper_floors import upper_class
from nbruntime.errors import NbruntimeError
from nbruntime.notebook.views.widgets import WidgetKit

if TYPE_CHECKING:
    from nbruntime.endpoint import RuntimeEndpoint
    from nbruntime.profiling.profile import Profile
    from nbruntime.profiling.recording.recorder import Recorder
    from nbruntime.runtime import Runtime

KEPT = "the profile is in panel.profile"
"""What is said when a recording has ended."""


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
        self._profiling = threading.Lock()  # held while a recording starts or stops
        self._wanted = False  # whether a profile is to be recorded
        self._recorder: Recorder | None = None
        self.profile: Profile | None = None  # the last one, also while it is recorded

    def make(self, kit: WidgetKit) -> list[Any]:
        """Make the widgets; again when the panel is reopened."""
        self._kit = kit
        self.buttons = {
            "flush": self._button("Flush cache", "Empty the KV cache", self._flush),
            "profile": self._button(
                "Start profile", "Record requests, load and the server's profiler", self._profile
            ),
            "abort": self._button("Abort all", "Stop every request on the server", self._abort),
        }
        if self._runtime is not None:
            self.buttons["shutdown"] = self._button(
                "Shut down …", "End the server", lambda: self._show_question(True)
            )
        self.buttons["close"] = self._button("Close panel", "Leave a static picture", self._on_close)
        self._label_profile()
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
        """Enable or disable all buttons but Close; without a server a recording ends."""
        for name, button in self.buttons.items():
            button.disabled = not enabled and name != "close"
        if not enabled:
            self.end_profile()

    def end_profile(self) -> None:
        """End the recording if there is one, without waiting: the server has ended, or the panel closes."""
        if self._wanted:
            self._profile()

    def _button(self, label: str, tooltip: str, action: Callable[[], object]) -> Any:
        button = self._kit.keep(
            ipywidgets.Button(description=label, tooltip=tooltip, layout=ipywidgets.Layout(width="auto"))
        )
        button.on_click(lambda _button: action())
        return button

    def _run(self, done: str, action: Callable[[], object]) -> None:
        """Run an action in its own thread, as it may take seconds.

        The message is `done` if it succeeds, or the text that it returns.
        """

        def work() -> None:
            try:
                result = action()
            except NbruntimeError as error:
                first = str(error).splitlines()[0]
                said = f'<span class="nbr-bad">▲</span> {escape(first)}'
            else:
                text = result if isinstance(result, str) else done
                said = f'<span class="nbr-quiet">{escape(f"{time_of_day(time.time())} {text}")}</span>'
            self.message.value = said
            self._on_result()

        self.message.value = '<span class="nbr-quiet">…</span>'
        threading.Thread(target=work, name="nbruntime-panel-action", daemon=True).start()

    def _flush(self) -> None:
        self._run("the cache is empty", self._endpoint.flush_cache)

    def _profile(self) -> None:
        self._wanted = not self._wanted
        self._label_profile()
        self._run("", self._start_or_stop_profile)

    def _start_or_stop_profile(self) -> str:
        """Do what was wanted last: the panel may be closed while a recording is being started."""
        with self._profiling:
            if self._wanted and self._recorder is None:
                recorder: Recorder = upper_class("recorder")(self._endpoint, trace=True)
                try:
                    self.profile = recorder.start()
                except BaseException:
                    self._wanted = False
                    self._label_profile()
                    raise
                self._recorder = recorder
            elif not self._wanted and self._recorder is not None:
                recorder, self._recorder = self._recorder, None
                recorder.stop()
            return "a profile is being recorded" if self._wanted else KEPT

    def _label_profile(self) -> None:
        self.buttons["profile"].description = "Stop profile" if self._wanted else "Start profile"

    def _abort(self) -> None:
        self._run("every request is stopped", self._endpoint.abort_all)

    def _show_question(self, ask: bool) -> None:
        self.question.layout.display = "" if ask else "none"

    def _shut_down(self) -> None:
        self._show_question(False)
        if self._runtime is not None:
            self._run("the server is shut down", self._runtime.shutdown)
