"""Which front ends are taken to show widgets: by the requests that they send."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nbruntime.display import views

SESSION = "3fe23461-e68890ead63dddabb9722464"


def request(msg_id: str, msg_type: str = "execute_request", **content: Any) -> dict[str, Any]:
    header = {"msg_id": msg_id, "msg_type": msg_type, "session": SESSION}
    return {"header": header, "metadata": {}, "content": content}


REQUESTS = {
    "JupyterLab": (request("39d1d4b3-c61b-4fc7-8c08-c0db8fa9df58", allow_stdin=True), True),
    "nbclient": (request(f"{SESSION}_440_2", allow_stdin=False), True),
    "jupyter_console": (request(f"{SESSION}_988_1", allow_stdin=True), False),
    "a console of xeus-python": ({"header": request(f"{SESSION}_988_1")["header"]}, False),
    "a widget's callback": (request(f"{SESSION}_988_3", "comm_msg", data={}), True),
    "no request": ({}, True),
}


@pytest.mark.parametrize(("asked", "shows"), REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize("where", ["shell", "kernel"])
def test_who_shows_widgets(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], shows: bool, where: str
) -> None:
    has_request = SimpleNamespace(get_parent=lambda: asked)
    kernel = has_request if where == "kernel" else object()
    shell = SimpleNamespace(kernel=kernel, **(vars(has_request) if where == "shell" else {}))
    monkeypatch.setattr(views, "_shell", lambda: shell)
    assert views.running_request() == asked
    assert views.shows_widgets() is shows


def test_a_terminal_shows_no_widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    for shell in (None, SimpleNamespace(), SimpleNamespace(kernel=None)):
        monkeypatch.setattr(views, "_shell", lambda shell=shell: shell)
        assert not views.shows_widgets()
        assert views.running_request() == {}
