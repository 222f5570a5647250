"""The magics in a Jupyter kernel."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.kernel import Kernel, shown_in
from support.magics import TEXT, WORDS
from support.scripted_server import ScriptedServer, Wait, cumulative, stream


@pytest.mark.kernel
def test_in_a_notebook_the_answer_stays_in_the_cell(kernel: Kernel, server: ScriptedServer) -> None:
    for line in ("", "--no-stream"):
        ran = kernel.run(f"%%sgl_generate -o story {line}\nTell <b>me</b>:")
        assert ran["status"] == "ok"
        kinds = "display_data" if line else "update_display_data"
        last = shown_in(ran, kinds, "data")[-1]
        print(last)
        assert last["text/plain"].startswith(TEXT)
        assert TEXT in last["text/html"]
        assert "application/vnd.jupyter.widget-view+json" not in last
        assert kernel.value("[story.text, _sgl is story]") == [TEXT, True]
        kernel.run("del story")
    ran = kernel.run("%%sgl_chat\nTell me")
    assert kernel.value("conversation.messages")[-1] == {"role": "assistant", "content": TEXT}
    ran = kernel.run("conversation")
    assert TEXT in shown_in(ran, "execute_result", "data")[0]["text/html"]
    ran = kernel.run("%sgl_servers\n%sgl_info")
    servers, info = shown_in(ran, "display_data", "data")
    assert server.url in servers["text/html"]
    assert "0.5.23" in info["text/html"]
    (live,) = shown_in(kernel.run("%sgl_info --live"), "display_data", "data")
    assert "application/vnd.jupyter.widget-view+json" in live
    assert server.url in live["text/plain"]


@pytest.mark.kernel
def test_kernel_interrupt_keeps_the_text_received_so_far(kernel: Kernel, server: ScriptedServer) -> None:
    wait = Wait()
    server.on("/generate", lambda asked: stream(*cumulative(WORDS, asked.json["rid"])[:2], wait))

    drawn: list[dict[str, Any]] = []

    def interrupt_when_shown(message: dict[str, Any]) -> None:
        # The growing text goes to the widget; the words are there when it was drawn.
        if message["msg_type"] == "comm_msg" and "upon" in json.dumps(message["content"]) and not drawn:
            drawn.append(message)
            kernel.manager.interrupt_kernel()

    ran = kernel.run("%%sgl_generate -o story\nTell me:", on_message=interrupt_when_shown)
    assert (ran["status"], ran["ename"]) == ("error", "KeyboardInterrupt")
    assert ran["traceback"] == ["KeyboardInterrupt: the text received so far is in story"]
    assert "Once upon" in shown_in(ran, "update_display_data", "data")[-1]["text/plain"]
    assert kernel.value("story.text") == "Once upon"
    server.wait_for("/abort_request")


@pytest.mark.kernel
def test_errors_in_a_notebook_have_no_traceback(kernel: Kernel, server: ScriptedServer) -> None:
    ran = kernel.run("%%sgl_generate --tempreature 0\nx")
    assert (ran["status"], ran["ename"]) == ("error", "UsageError")
    ran = kernel.run("%sgl_connect http://127.0.0.1:1")
    assert (ran["status"], ran["ename"]) == ("error", "ServerConnectionError")
    assert len(ran["traceback"]) == 2
    reply = kernel.client.complete("%%sgl_generate --endpoint m", reply=True, timeout=20)
    assert reply["content"]["matches"] == ["main"]
