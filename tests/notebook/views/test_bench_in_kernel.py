"""Load tests in a real kernel, with a front end that a test plays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from jupyter_client.manager import start_new_kernel
from support.kernel import WIDGET, FrontEnd
from support.timed_server import timed_server

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def front_end() -> Iterator[FrontEnd]:
    manager, client = start_new_kernel()
    try:
        with timed_server(first=0.02, step=0.02) as url:
            started = FrontEnd(manager, client)
            started.run(f"import nbruntime; url = {url!r}")
            yield started
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_an_interrupt_ends_the_cell_with_a_result(front_end: FrontEnd) -> None:
    request = front_end.start("result = nbruntime.bench(url, concurrency=2, seconds=600, output_tokens=2)")
    live, _ = front_end.until(kind="display_data")
    assert live["parent_header"]["msg_id"] == request
    assert {WIDGET, "text/plain", "text/html"} <= set(live["content"]["data"])
    front_end.until(kind="comm_msg", holds=lambda message: "TTFT p50" in str(message["content"]))
    front_end.manager.interrupt_kernel()
    last, before = front_end.until(kind="update_display_data")
    assert set(last["content"]["data"]) == {"text/plain", "text/html"}
    assert last["content"]["transient"] == live["content"]["transient"]
    assert "Load test · stopped" in last["content"]["data"]["text/plain"]
    assert not [each for each in before if each["msg_type"] == "error"]
    shown = "run = result.runs[0]; print(run.interrupted, len(run.requests) > 2, run.notes[-1])"
    assert front_end.printed(shown) == "True True Interrupted: what was measured until then is kept."


def test_the_button_stops_a_load_test_that_runs_beside_cells(front_end: FrontEnd) -> None:
    front_end.start("job = nbruntime.bench(url, concurrency=2, seconds=600, output_tokens=2, block=False)")
    opened, _ = front_end.until(kind="comm_open", holds=lambda message: "'Stop'" in str(message["content"]))
    front_end.until(kind="comm_msg", holds=lambda message: "TTFT p50" in str(message["content"]))
    data = {"method": "custom", "content": {"event": "click"}}
    message = front_end.client.session.msg(
        "comm_msg", {"comm_id": opened["content"]["comm_id"], "data": data}
    )
    front_end.client.shell_channel.send(message)
    last, _ = front_end.until(kind="update_display_data")
    assert "stopped after 1 run" in last["content"]["data"]["text/plain"]
    assert (
        front_end.printed("print(job.wait(30), job.running, job.result().runs[0].interrupted)")
        == "True False True"
    )
