"""Comms that keep what widgets send, in place of those of a kernel."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

Messages = list[tuple[str, dict[str, Any]]]


def record_comms(monkeypatch: pytest.MonkeyPatch) -> Messages:
    """Make all new widgets send to the returned list: types of messages and their data."""
    messages: Messages = []

    def keep(kind: str, data: Any) -> None:
        messages.append((kind, json.loads(json.dumps(data or {}))))

    try:
        import comm
        from comm.base_comm import BaseComm
    except ModuleNotFoundError:  # ipykernel before 6.18, with ipywidgets before 7.7.3
        from ipykernel.comm import Comm
        from ipywidgets.widgets import widget

        class OldComm(Comm):  # type: ignore[misc]
            kernel = SimpleNamespace(
                comm_manager=SimpleNamespace(register_comm=lambda _: None, unregister_comm=lambda _: None)
            )

            def _publish_msg(self, msg_type: str, data: Any = None, *_: Any, **__: Any) -> None:
                keep(msg_type, data)

        monkeypatch.setattr(widget, "Comm", OldComm)
    else:

        class RecordingComm(BaseComm):
            def publish_msg(self, msg_type: str, data: Any = None, *_: Any, **__: Any) -> None:
                keep(msg_type, data)

        monkeypatch.setattr(comm, "create_comm", RecordingComm)
    return messages
