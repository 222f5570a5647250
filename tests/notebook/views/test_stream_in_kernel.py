"""Streams in a real kernel: where they land, how they are stopped, and what stays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import ipykernel
import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient
from support.kernel import WIDGET, FrontEnd
from support.scripted_server import Asked, Reply, ScriptedServer, Wait, cumulative, stream

pytestmark = pytest.mark.kernel

WORDS = ["The ", "sky ", "is ", "**blue**", "."]
HTML = "text/html"

SET_UP = """
import asyncio, threading
from ipywidgets.widgets import widget
open_widgets = widget._instances if hasattr(widget, "_instances") else widget.Widget.widgets
widget.Widget.close_all()  # those that a test has left which failed
from nbruntime import RuntimeEndpoint
from nbruntime.endpoint import AsyncRuntimeEndpoint
from nbruntime.notebook.views.stream import StreamView
endpoint = RuntimeEndpoint({url!r})
def left():
    names = ("nbruntime-read", "nbruntime-draw", "nbruntime-stop")
    threads = [each for each in threading.enumerate() if each.name in names]
    for each in threads:
        each.join(10)
    return len(open_widgets), sum(each.is_alive() for each in threads)
"""


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        running.on("/generate", stream(*cumulative(WORDS)))
        yield running


@pytest.fixture(scope="module")
def kernel() -> Iterator[FrontEnd]:
    manager, client = start_new_kernel()
    try:
        yield FrontEnd(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.fixture
def front_end(kernel: FrontEnd, server: ScriptedServer) -> Iterator[FrontEnd]:
    kernel.run(SET_UP.format(url=server.url))
    yield kernel
    assert kernel.printed("print(*left())") == "0 0", "widgets or threads are left"


def waiting(server: ScriptedServer) -> Wait:
    """Have the server stop after two words until it is told to go on, here or by a GET of ``/go_on``."""
    wait = Wait()
    events = cumulative(WORDS)

    def go_on(_: Asked) -> Reply:
        wait.go.set()
        return Reply()

    server.on("/generate", stream(*events[:2], wait, *events[2:]))
    server.on("/go_on", go_on)
    return wait


def parent(message: dict[str, Any]) -> str:
    return str(message["parent_header"].get("msg_id"))


def shown(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in messages if each["msg_type"] in ("display_data", "update_display_data")]


def place(message: dict[str, Any]) -> str:
    return str(message["content"]["transient"]["display_id"])


def is_final(message: dict[str, Any]) -> bool:
    return HTML in message["content"]["data"]


def texts_of_tails(messages: list[dict[str, Any]]) -> str:
    return " ".join(
        str(each["content"]["data"].get("state", {}).get("value", ""))
        for each in messages
        if each["msg_type"] in ("comm_open", "comm_msg")
    )


def test_a_blocking_view_becomes_static_in_its_cell(front_end: FrontEnd) -> None:
    messages = front_end.run("answer = StreamView(endpoint.stream('Why?')).show()")
    request = parent(messages[-1])
    live, final = shown(messages)
    assert WIDGET in live["content"]["data"]
    assert "the answer appears here" in live["content"]["data"]["text/plain"]
    assert set(final["content"]["data"]) == {"text/plain", HTML, "text/markdown"}
    assert live["content"]["transient"] == final["content"]["transient"]
    assert parent(live) == parent(final) == request
    assert "<strong>blue</strong>" in final["content"]["data"][HTML]
    opened = {each["content"]["comm_id"] for each in messages if each["msg_type"] == "comm_open"}
    closed = {each["content"]["comm_id"] for each in messages if each["msg_type"] == "comm_close"}
    assert opened == closed
    assert front_end.printed("print(answer.text)") == "The sky is **blue**."


def test_the_text_is_shown_while_it_grows(front_end: FrontEnd, server: ScriptedServer) -> None:
    wait = waiting(server)
    front_end.start("answer = StreamView(endpoint.stream('Why?')).show()")
    _, before = front_end.until(
        kind="comm_msg", holds=lambda each: "The sky" in str(each["content"]["data"].get("state"))
    )
    assert wait.reached.wait(10)
    assert "waiting for the first token" in texts_of_tails(before) or "2 tokens" in texts_of_tails(before)
    wait.go.set()
    front_end.until(kind="update_display_data", holds=is_final)
    front_end.run("")


@pytest.mark.parametrize(
    "code",
    [
        "StreamView(endpoint.stream('Why?')).show()",
        "await StreamView(endpoint.stream('Why?')).show_async()",
        "await StreamView(await AsyncRuntimeEndpoint(endpoint.base_url).stream('Why?')).show_async()",
    ],
    ids=["blocking", "in a thread", "asynchronous"],
)
def test_interrupt_stops_the_request_and_keeps_the_text(
    front_end: FrontEnd, server: ScriptedServer, code: str
) -> None:
    wait = waiting(server)
    request = front_end.start(code)
    front_end.until(kind="comm_msg", holds=lambda each: "The sky" in str(each["content"]["data"]))
    assert wait.reached.wait(10)
    began = time.monotonic()
    front_end.manager.interrupt_kernel()
    server.wait_for("/abort_request")
    print(f"aborted {time.monotonic() - began:.3f} s after the interrupt")
    _, messages = front_end.until(
        kind="status",
        holds=lambda each: parent(each) == request and each["content"]["execution_state"] == "idle",
    )
    print(f"idle {time.monotonic() - began:.3f} s after it, its traceback included")
    assert time.monotonic() - began < 10  # the server would wait for 20 s
    assert [each["content"]["ename"] for each in messages if each["msg_type"] == "error"] in (
        ["KeyboardInterrupt"],
        ["CancelledError"],
    )
    if not any(map(is_final, shown(messages))):
        messages.append(front_end.until(kind="update_display_data", holds=is_final)[0])
    final = shown(messages)[-1]["content"]["data"]
    assert "The sky" in final[HTML]
    assert "interrupted" in final[HTML]
    assert final["text/plain"].endswith("[interrupted]")


def test_a_displayed_stream_stays_in_its_cell(front_end: FrontEnd, server: ScriptedServer) -> None:
    wait = waiting(server)
    first = front_end.run("running = endpoint.stream('Why?')\ndisplay(running)\nrunning", cell="a")
    assert [WIDGET in each["content"]["data"] for each in shown(first)] == [True, True]
    assert not any(each["msg_type"] == "execute_result" for each in first)
    assert front_end.printed("print('meanwhile', running.text)").startswith("meanwhile")
    wait.go.set()
    one, _ = front_end.until(kind="update_display_data", holds=is_final)
    other, _ = front_end.until(kind="update_display_data", holds=is_final)
    assert {place(one), place(other)} == {place(each) for each in shown(first)}
    (again,) = shown(front_end.run("running", cell="b"))
    assert is_final(again), "a stream that has ended shows its static form"


def test_the_stop_button(front_end: FrontEnd, server: ScriptedServer) -> None:
    waiting(server)
    messages = front_end.run("display(endpoint.stream('Why?'))")
    if "The sky" not in texts_of_tails(messages):
        front_end.until(kind="comm_msg", holds=lambda each: "The sky" in str(each["content"]["data"]))
    buttons = [
        each["content"]["comm_id"]
        for each in messages
        if each["msg_type"] == "comm_open"
        and each["content"]["data"]["state"].get("_model_name") == "ButtonModel"
    ]
    click = {"comm_id": buttons[0], "data": {"method": "custom", "content": {"event": "click"}}}
    session = front_end.client.session
    front_end.client.shell_channel.send(session.msg("comm_msg", click))
    server.wait_for("/abort_request")
    final, _ = front_end.until(kind="update_display_data", holds=is_final)
    assert "stopped" in final["content"]["data"][HTML]
    assert "The sky" in final["content"]["data"][HTML]


def test_running_the_cell_again_stops_the_old_stream(front_end: FrontEnd, server: ScriptedServer) -> None:
    wait = waiting(server)
    code = "display(endpoint.stream('Why?'))"
    (first,) = shown(front_end.run(code, cell="same"))
    assert wait.reached.wait(10)
    front_end.run("", cell="other")
    assert not server.to("/abort_request")
    server.on("/generate", stream(*cumulative(WORDS)))
    front_end.start(code, cell="same")
    server.wait_for("/abort_request")
    finals = {}
    while len(finals) < 2:
        message, _ = front_end.until(kind="update_display_data", holds=is_final)
        finals[place(message)] = message["content"]["data"]["text/plain"]
    assert finals.pop(place(first)).endswith("[stopped]")
    assert list(finals.values()) == ["The sky is **blue**."]


def test_an_executed_notebook_keeps_a_view_that_ends_in_a_later_cell(server: ScriptedServer) -> None:
    waiting(server)
    cells = [SET_UP.format(url=server.url), "endpoint.stream('Why?')", "endpoint.get('/go_on')\nleft()"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(each) for each in cells])
    NotebookClient(notebook, timeout=30).execute()
    (output,) = notebook.cells[1].outputs
    assert set(output.data) == {"text/plain", HTML, "text/markdown"}
    assert output.data["text/plain"] == "The sky is **blue**."


def test_views_of_threads_and_tasks_appear_in_the_cell_that_created_them(front_end: FrontEnd) -> None:
    messages = front_end.run(
        "views = [StreamView(endpoint.stream(str(n))) for n in range(3)]\n"
        "async def later(view, gate):\n"
        "    await gate.wait()\n"
        "    await view.show_async()\n"
        "gate = asyncio.Event()\n"
        "task = asyncio.create_task(later(StreamView(endpoint.stream('task')), gate))\n",
        cell="makes",
    )
    made = parent(messages[-1])
    code = (
        "threads = [threading.Thread(target=view.show) for view in views]\n"
        "for each in threads: each.start()\n"
        "gate.set(); await task\n"
        "for each in threads: each.join()\n"
        "print('done')"
    )
    messages = front_end.run(code, cell="runs")
    live, final = ([each for each in shown(messages) if is_final(each) is ended] for ended in (False, True))
    # Before ipykernel 7 the output of a thread goes to the cell that is running.
    cell = made if ipykernel.version_info >= (7,) else parent(messages[-1])
    assert [parent(each) for each in live] == [cell] * 4
    assert sorted(map(place, final)) == sorted(map(place, live))
    assert "done" in str([each["content"] for each in messages if each["msg_type"] == "stream"])


def test_views_of_concurrent_tasks(front_end: FrontEnd) -> None:
    messages = front_end.run(
        "client = AsyncRuntimeEndpoint(endpoint.base_url)\n"
        "views = [StreamView(await client.stream(str(n))) for n in range(3)]\n"
        "answers = await asyncio.gather(*(view.show_async() for view in views))\n"
        "await client.close()"
    )
    finals = [each["content"] for each in shown(messages) if is_final(each)]
    assert len({each["transient"]["display_id"] for each in finals}) == 3
    assert all("<strong>blue</strong>" in each["data"][HTML] for each in finals)
    assert front_end.printed("print(len(answers), answers[0].text)") == "3 The sky is **blue**."


IN_AN_OUTPUT = {
    "with": "with out: display(endpoint.stream('Why?'))",
    "blocking": "with out: StreamView(endpoint.stream('Why?')).show()",
    "append_display_data": "out.append_display_data(endpoint.stream('Why?'))",
    "capture_output": "with capture_output() as captured: display(endpoint.stream('Why?'))\ncaptured.show()",
    "during its end": (
        "display(endpoint.stream('Why?'))\n"
        "with out:\n"
        "    endpoint.get('/go_on')\n"
        "    [each.wait(10) for each in list(open_widgets.values()) if isinstance(each, StreamView)]"
    ),
}


@pytest.mark.parametrize("where", IN_AN_OUTPUT)
def test_a_view_stays_where_it_cannot_be_replaced(
    front_end: FrontEnd, server: ScriptedServer, where: str
) -> None:
    if where == "during its end":
        waiting(server)  # or the answer may end before the output is entered
    front_end.run(
        "import ipywidgets\nfrom IPython.utils.capture import capture_output\nout = ipywidgets.Output()"
    )
    front_end.start(IN_AN_OUTPUT[where])
    message, _ = front_end.until(kind="comm_open", holds=lambda each: "length (5)" in str(each["content"]))
    assert "<strong>blue</strong>" in message["content"]["data"]["state"]["value"]
    front_end.run("")
    kept = front_end.printed(
        "from ipywidgets.widgets import widget\n"
        "widgets = getattr(widget, '_instances', None) or widget.Widget.widgets\n"
        "views = [each for each in widgets.values() if isinstance(each, StreamView)]\n"
        "print([(view.wait(5), len(view.children), view.comm is None) for view in views])\n"
        "for each in (*views, out, out.layout): each.close()"
    )
    assert kept == "[(True, 1, False)]"


def test_a_view_in_a_layout(front_end: FrontEnd) -> None:
    messages = front_end.run(
        "import ipywidgets\n"
        "parts = [endpoint.stream(prompt).widget() for prompt in 'ab']\n"
        "layout = ipywidgets.HBox(parts)\n"
        "display(layout)\n"
        "print(all(part.wait(10) for part in parts))"
    )
    assert "True" in str([each["content"] for each in messages if each["msg_type"] == "stream"])
    values = [
        each["content"]["data"]["state"]["value"]
        for each in messages
        if each["msg_type"] == "comm_open" and "value" in each["content"]["data"].get("state", {})
    ]
    assert sum("nbr-foot" in value and "length (5)" in value for value in values) == 2
    front_end.run("for each in (*parts, layout, layout.layout): each.close()")
