"""The frontend language in the cells of a Jupyter kernel: an event loop is running there."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.kernel import Kernel, shown_in
from support.scripted_server import Asked, Reply, ScriptedServer, Wait, answer, cumulative, stream

pytestmark = pytest.mark.kernel

WORDS = ["Learning", " by", " machine", "."]
WIDGET = "application/vnd.jupyter.widget-view+json"

DEFINE = """
import sglang as sgl
from nbruntime import RuntimeEndpoint
from nbruntime.notebook import show_program

sgl.set_default_backend(RuntimeEndpoint({url!r}, chat_template_name="chatml"))

@sgl.function
def chatbot(s, message):
    s += sgl.user(message)
    s += sgl.assistant(sgl.gen("answer", max_tokens=8))
"""


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def kernel(tmp_path: Path, server: ScriptedServer) -> Iterator[Kernel]:
    started = Kernel(tmp_path)
    try:
        started.connect(server.url)
        assert started.run(DEFINE.format(url=server.url))["status"] == "ok"
        yield started
    finally:
        started.close()


def halting(server: ScriptedServer) -> Wait:
    """Have the server write one word, and the others when the test says so."""
    wait = Wait()
    first, *rest = cumulative(WORDS)
    server.on("/generate", stream(first, wait, *rest))
    return wait


def test_programs_in_cells(kernel: Kernel, server: ScriptedServer) -> None:
    server.on("/generate", Reply(json=answer("".join(WORDS))))
    kernel.run("state = chatbot.run(message='What is it?')")
    assert kernel.value("state['answer']") == "Learning by machine."

    for loop, source in (
        ("for", 'state.text_iter("answer")'),
        ("async for", 'state.text_async_iter("answer")'),
    ):
        wait = halting(server)

        def go_on(message: dict[str, Any], wait: Wait = wait) -> None:
            if message["msg_type"] == "stream":
                wait.go.set()  # the first word was shown before the second was sent

        code = f"{loop} text in {source}:\n    print(text, end='|')"
        ran = kernel.run("state = chatbot.run(message='x', stream=True)\n" + code, on_message=go_on)
        assert ran["status"] == "ok", ran
        printed = "".join(shown_in(ran, "stream", "text"))
        assert printed.startswith("Learning|")
        assert printed.replace("|", "") == "Learning by machine."

    server.on("/generate", lambda asked: Reply(json=answer(asked.json["text"][-40:-38])))
    ran = kernel.run(
        "states = chatbot.run_batch([{'message': str(n)} for n in range(8)], progress_bar=True)\n"
        "print(len({state['answer'] for state in states}))"
    )
    assert "8/8" in "".join(shown_in(ran, "stream", "text"))


def test_a_program_is_shown_live(kernel: Kernel, server: ScriptedServer) -> None:
    wait = halting(server)

    def go_on(message: dict[str, Any]) -> None:
        if message["msg_type"] == "display_data":
            wait.go.set()

    ran = kernel.run("show_program(chatbot.run(message='<b>x</b>', stream=True))", on_message=go_on)
    (live,) = shown_in(ran, "display_data", "data")
    assert WIDGET in live
    assert "running" in live["text/plain"]
    (final,) = shown_in(ran, "update_display_data", "data")
    assert final.keys() == {"text/plain", "text/html"}
    assert "  assistant: «answer: Learning by machine.»" in final["text/plain"]
    assert "<b>x</b>" not in final["text/html"]

    wait = halting(server)
    ran = kernel.run("state = chatbot.run(message='x', stream=True)\nstate")
    (live,) = shown_in(ran, "display_data", "data")
    assert WIDGET in live, "the last line of a cell does not wait"
    wait.go.set()
    kernel.run("state.sync()")
    ran = kernel.run("state")
    (final,) = shown_in(ran, "display_data", "data")
    assert final.keys() == {"text/plain", "text/html"}
    assert kernel.value("[type(state).__name__, state['answer']]") == ["ProgramState", "Learning by machine."]


def test_an_error_is_told_in_two_lines_every_time(kernel: Kernel, server: ScriptedServer) -> None:
    def refuse(asked: Asked) -> Reply:
        return Reply(json={"error": {"message": "no room"}}, status=400)

    server.on("/generate", refuse)
    kernel.run("import nbruntime.frontend.failures as failures; failures.QUIET_SECONDS = 0")
    for _ in range(2):
        ran = kernel.run("state = chatbot.run(message='x', stream=True)\nlist(state.text_iter('answer'))")
        assert ran["status"] == "ok", "the interpreter's iterator ends as if all were well"
        ran["messages"] += kernel.run("state.sync()")["messages"]
        said = "".join(shown_in(ran, "stream", "text"))
        first = "sgl.gen:0: ProgramWarning: BadRequestError: The server answered 400 Bad Request: no room ("
        assert said.startswith(first)
        assert (
            said.split("\n")[1] == "Change the request as the message says; sending it again will not help."
        )
        ran = kernel.run("show_program(state)")
        assert (ran["status"], ran["ename"]) == ("error", "BadRequestError")
        (card,) = shown_in(ran, "display_data", "data")
        assert "Program message='x' · failed" in card["text/plain"]


def test_an_interrupt_ends_a_batch(kernel: Kernel, server: ScriptedServer) -> None:
    aborted: dict[str, threading.Event] = defaultdict(threading.Event)
    running = threading.Semaphore(0)

    def generate(asked: Asked) -> Reply:
        gone = aborted[asked.json["rid"]]  # before the abort can ask for it
        running.release()
        assert gone.wait(30)
        reason = {"type": "abort", "message": "Abort before prefill"}
        return Reply(json=answer("", [], finish_reason=reason))

    def abort(asked: Asked) -> Reply:
        aborted[asked.json["rid"]].set()
        return Reply()

    server.on("/generate", generate)
    server.on("/abort_request", abort)

    def interrupt() -> None:
        for _ in range(4):
            running.acquire(timeout=20)
        kernel.manager.interrupt_kernel()

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    ran = kernel.run("chatbot.run_batch([{'message': str(n)} for n in range(32)], num_threads=4)")
    interrupter.join()
    assert (ran["status"], ran["ename"]) == ("error", "KeyboardInterrupt")
    assert len(server.to("/generate")) == 4, "what had not begun does not begin"
    said = "".join(shown_in(ran, "stream", "text"))
    assert said.count("ProgramWarning") <= 2, said

    server.on("/generate", Reply(json=answer("".join(WORDS))))
    kernel.run("state = chatbot.run(message='What is it?')")
    assert kernel.value("state['answer']") == "Learning by machine."
