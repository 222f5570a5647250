"""The launch view and the panel in a real kernel, with a front end that a test plays."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_client.manager import start_new_kernel
from support.fake_engine import SERVER
from support.kernel import WIDGET, FrontEnd

pytestmark = pytest.mark.kernel


SETUP = f"""
import sys
sys.path[:0] = {[str(SERVER.parents[1]), str(SERVER.parents[2])]!r}
from support import fake_engine; fake_engine.install()
from nbruntime.runtime import Runtime
"""


@pytest.fixture
def front_end() -> Iterator[FrontEnd]:
    manager, client = start_new_kernel()
    try:
        started = FrontEnd(manager, client)
        started.run(SETUP)
        yield started
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_launch_is_shown_in_its_cell_and_becomes_static(front_end: FrontEnd, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    request = front_end.start(f"runtime = Runtime(engine='fake', port=0, gate={str(gate)!r})")
    live, _ = front_end.until(kind="display_data")
    assert live["parent_header"]["msg_id"] == request
    assert {WIDGET, "text/plain", "text/html"} <= set(live["content"]["data"])
    gate.write_text("go")
    last, _ = front_end.until(kind="update_display_data")
    assert set(last["content"]["data"]) == {"text/plain", "text/html"}
    assert last["content"]["transient"] == live["content"]["transient"]
    assert "fake/model · ready" in last["content"]["data"]["text/plain"]
    _, after = front_end.until(kind="comm_close")
    assert not [each for each in after if each["msg_type"] == "display_data"]


def test_launch_error_has_two_lines(front_end: FrontEnd) -> None:
    messages = front_end.run("Runtime(engine='fake', port=0, fail='RuntimeError: no memory', say=['a line'])")
    (error,) = [each["content"] for each in messages if each["msg_type"] == "error"]
    assert len(error["traceback"]) == 1
    assert "RuntimeError: no memory" in error["traceback"][0]
    assert "a line" not in error["traceback"][0]
    shown = [each["content"]["data"] for each in messages if each["msg_type"].endswith("display_data")]
    card = shown[-1]  # the only one, or what took the view's place
    assert set(card) == {"text/plain", "text/html"}
    assert "a line" in card["text/html"]


def test_panel_polls_while_shown(front_end: FrontEnd) -> None:
    front_end.run("runtime = Runtime(engine='fake', port=0, progress=False)")
    messages = front_end.run("panel = runtime.panel(interval=0.05)\npanel", "shown")
    (shown,) = [each["content"]["data"] for each in messages if each["msg_type"] == "display_data"]
    assert {WIDGET, "text/plain", "text/html"} <= set(shown)
    comm = shown[WIDGET]["model_id"]
    front_end.tell(comm, {"_view_count": 1})
    assert front_end.printed("print(panel.polling)") == "True"
    front_end.tell(comm, {"_view_count": 0})
    waited = "import time\nfor _ in range(200):\n    if not panel.polling: break\n    time.sleep(0.05)\n"
    assert front_end.printed(waited + "print(panel.polling)") == "False"
    front_end.tell(comm, {"_view_count": 1})
    again = front_end.run("other = runtime.panel()\nother", "shown")
    kinds = [each["msg_type"] for each in again]
    assert "comm_close" in kinds, "the panel of the cell's earlier run"
    assert (
        front_end.printed(waited + "print(panel.shown, panel.polling, other.polling)") == "False False True"
    )
    front_end.run("unseen = runtime.panel()\nunseen", "unseen")  # no front end tells of views
    front_end.run("1", "unseen")
    assert front_end.printed(waited.replace("panel", "unseen") + "print(unseen.polling)") == "False"
    # Its updates come by themselves, while no cell runs.
    os.kill(int(front_end.printed("print(runtime.pid)")), signal.SIGKILL)
    front_end.until(kind="comm_msg", holds=lambda message: "died, seen at" in str(message["content"]))
    front_end.run("other.close()")
    assert front_end.printed("print(other.shown)") == "False"
