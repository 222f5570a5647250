"""A cell of a front end that shows widgets, in which a test runs."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from nbruntime.display import views
from nbruntime.notebook.views import launch, live_outputs, output_context, panel, program


class Cell:
    """Stands in for IPython's display publisher, and keeps what the cell shows.

    Attributes
    ----------
    outputs : list of list of dict
        The bundles that each output has had, the last of which is seen.
    shown : threading.Event
        Set when the cell has an output.
    changed : threading.Event
        Set when an output is replaced.
    request : dict
        The message that runs the cell.
    before_cell : list of callable
        What is called before a cell runs.
    """

    def __init__(self) -> None:
        self.request: dict[str, Any] = {}
        self.before_cell: list[Any] = []
        self.outputs: list[list[dict[str, Any]]] = []
        self.shown = threading.Event()
        self.changed = threading.Event()
        self._by_id: dict[str, list[dict[str, Any]]] = {}

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let everything that a test displays appear in this cell."""
        events = SimpleNamespace(register=lambda _event, function: self.before_cell.append(function))
        shell = SimpleNamespace(
            kernel=self, display_pub=self, events=events, meta={}, get_parent=lambda: self.request
        )
        monkeypatch.setattr(views, "_shell", lambda: shell)
        for module in (live_outputs, output_context):
            monkeypatch.setattr(module, "get_ipython", lambda: shell)
        for module in (launch, panel, program):
            monkeypatch.setattr(module, "display", lambda bundle, raw: self.publish(bundle))

    def publish(
        self, data: dict[str, Any], *, transient: dict[str, Any] | None = None, update: bool = False
    ) -> None:
        name = (transient or {}).get("display_id", "")
        if update:
            self._by_id[name].append(data)
            self.changed.set()
        else:
            self.outputs.append([data])
            self._by_id[name] = self.outputs[-1]
            self.shown.set()

    @property
    def bundles(self) -> list[dict[str, Any]]:
        """All bundles, output by output."""
        return [bundle for output in self.outputs for bundle in output]
