"""Outputs that show a live view until its static form takes its place."""

from __future__ import annotations

import contextvars
import sys
import uuid
from dataclasses import dataclass
from types import FrameType
from typing import Any

import ipywidgets
from IPython import get_ipython
from IPython.core.displaypub import CapturingDisplayPublisher
from ipywidgets.widgets import widget as open_widgets

from nbruntime.display.views import running_request
from nbruntime.notebook.views.widgets import WidgetKit


@dataclass(frozen=True, slots=True)
class _Shown:
    """One output: where it was sent, its display id, and the id of the cell's message."""

    publisher: Any
    display_id: str
    cell: str | None


class LiveOutputs:
    """The outputs of one live view.

    Attributes
    ----------
    fixed : bool
        True if a front end cannot replace one of the outputs, so that the view itself must stay: it was taken
        by an Output widget or ``%%capture``, or belongs to a widget's callback and not to a cell.
    """

    def __init__(self) -> None:
        self._shown: list[_Shown] = []
        self.fixed = False

    def __len__(self) -> int:
        return len(self._shown)

    def show(self, bundle: dict[str, Any]) -> None:
        """Add an output to the running cell, or to the widget or capture that takes the cell's output."""
        output = _appending_output()
        if output is not None:
            self.fixed = True
            output.outputs += ({"output_type": "display_data", "data": bundle, "metadata": {}},)
            return
        header = running_request().get("header") or {}
        shown = _Shown(get_ipython().display_pub, uuid.uuid4().hex, header.get("msg_id"))
        self.fixed = (
            self.fixed
            or isinstance(shown.publisher, CapturingDisplayPublisher)
            or header.get("msg_type", "execute_request") != "execute_request"
        )
        self._shown.append(shown)
        self._publish(shown, bundle)

    def replace(self, bundle: dict[str, Any]) -> None:
        """Replace the outputs, in whichever cell they are; read `fixed` afterwards.

        Front ends find an output by its display id. nbclient (0.11, for nbconvert) listens only to the cell
        that is running, so the message is sent from that cell: in a context without a cell of its own.
        """
        for shown in self._shown:
            contextvars.Context().run(self._publish, shown, bundle, update=True)

    def end(self, bundle: dict[str, Any], box: Any, kit: WidgetKit) -> None:
        """Replace the outputs by their static form, and close the widgets; if `fixed`, show it in `box`."""
        self.replace(bundle)
        if self.fixed:
            kit.freeze(box, bundle["text/html"])
        else:
            kit.close()

    def _publish(self, shown: _Shown, bundle: dict[str, Any], *, update: bool = False) -> None:
        taken_before = _is_taken(shown)
        shown.publisher.publish(bundle, transient={"display_id": shown.display_id}, update=update)
        # Another thread may have entered an Output widget meanwhile.
        self.fixed = self.fixed or taken_before or _is_taken(shown)


def _is_taken(shown: _Shown) -> bool:
    """Return True if an Output widget takes what is now sent for the cell; it ignores replacements."""
    widgets = getattr(open_widgets, "_instances", None)
    if widgets is None:  # ipywidgets 7
        widgets = ipywidgets.Widget.widgets
    outputs = [each for each in list(widgets.values()) if isinstance(each, ipywidgets.Output)]
    return any(each.msg_id and each.msg_id == shown.cell for each in outputs)


def _appending_output() -> Any:
    """Return the Output widget whose `append_display_data` displays something now; else None.

    That method only takes an object's MIME bundle, and no output of its ``_ipython_display_``.
    """
    code = ipywidgets.Output.append_display_data.__code__
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return None if frame is None else frame.f_locals["self"]
