"""Answers stay where they streamed, also where a front end cannot replace an output by its display id."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Browser, Locator, expect
from support.browser import JupyterServer, NotebookPage
from support.language_model import Model
from support.scripted_server import Asked, Reply, ScriptedServer, Wait, cumulative, stream

pytestmark = pytest.mark.browser

WORDS = ["The ", "sky ", "is ", "**blue**", "."]

SETUP = """
%load_ext nbruntime
%sgl_connect {url} --name scripted -o endpoint
import threading, time
from IPython.display import clear_output
from IPython.utils.capture import capture_output
from ipywidgets import Accordion, Button, HBox, IntSlider, Output, Tab, interact
from nbruntime.notebook import show_program
from nbruntime.notebook.views.stream import StreamView
def until_the_end(*streams):
    for stream in streams: stream._view.wait(20)
"""

WAYS = {
    "with": "with out: display(endpoint.stream('Why?'))",
    "blocking": "with out: StreamView(endpoint.stream('Why?')).show()",
    "magic": "def ask():\n    with out: get_ipython().run_cell_magic('sgl_generate', '', 'Why?')\nask()",
    "append": "out.append_display_data(endpoint.stream('Why?'))",
    "capture": "@out.capture(clear_output=True, wait=True)\n"
    "def ask(): display(endpoint.stream('Why?'))\nask()",
    "nested": "inner = Output()\nwith out: display(inner)\nwith out, inner: display(endpoint.stream('Why?'))",
    "tab": "one = Output(); display(Tab([one]))\nwith one: display(endpoint.stream('Why?'))",
    "accordion": "one = Output(); display(Accordion([one], selected_index=0))\n"
    "with one: display(endpoint.stream('Why?'))",
    "thread": "def ask():\n    with out: display(endpoint.stream('Why?'))\n"
    "thread = threading.Thread(target=ask); thread.start(); thread.join()",
    "clear_output": "with out:\n    for _ in range(2):\n        clear_output(wait=True)\n"
    "        display(endpoint.stream('Why?'))",
    "interact": "@interact(x=IntSlider(1, 0, 3))\ndef ask(x): return endpoint.stream('Why?')",
    "button": "button = Button(description='Ask')\ndisplay(button)\ndef ask(_, out=out):\n"
    "    with out: display(endpoint.stream('Why?'))\nbutton.on_click(ask)",
    "button_that_appends": "button = Button(description='Append'); display(button)\n"
    "button.on_click(lambda _, out=out: out.append_display_data(endpoint.stream('Why?')))",
    "another_output": "stream = endpoint.stream('Why?')\ndisplay(stream)\nwith out: until_the_end(stream)",
    "capture_output": "with capture_output() as captured: display(endpoint.stream('Why?'))\ncaptured.show()",
    "another_capture": "stream = endpoint.stream('Why?')\ndisplay(stream)\n"
    "with capture_output(): until_the_end(stream)",
    "a_layout_and_the_cell": "stream = endpoint.stream('Why?')\ndisplay(HBox([stream.widget()]))\nstream",
}
"""Cells in which an answer streams; `out` is an Output widget of the cell."""


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as started:
        started.on("/generate", stream(*cumulative(WORDS)))
        yield started


@pytest.fixture
def page(jupyter: JupyterServer, browser: Browser, request: pytest.FixtureRequest) -> Iterator[NotebookPage]:
    with NotebookPage(jupyter, browser, getattr(request, "param", "lab"), height=2400) as opened:
        yield opened
        assert opened.foreign == []
        assert opened.dialogs == []


def is_frozen(output: Locator) -> None:
    """The output has nothing to press."""
    for name in ("Stop", "Close panel", "Flush cache"):
        expect(output.get_by_role("button", name=name)).to_have_count(0)


@pytest.mark.parametrize("page", ["lab", "notebook"], indirect=True)
def test_the_answer_stays_where_it_streamed(page: NotebookPage, server: ScriptedServer) -> None:
    cells = {name: f"out = Output(); display(out)\n{way}" for name, way in WAYS.items()}
    page.open([SETUP.format(url=server.url), *cells.values()], "output-widgets")
    page.run_all()
    for name in ("Ask", "Append"):
        page.page.get_by_role("button", name=name, exact=True).click()
    page.await_idle()
    for number, name in enumerate(cells, 1):
        print(name)
        answers = page.output(number).get_by_text("The sky is blue.")
        expect(answers).to_have_count(2 if name == "a_layout_and_the_cell" else 1)
        expect(page.output(number)).to_contain_text("length (5)")
        is_frozen(page.output(number))
    page.screenshots(f"output-widgets-{page.app}")
    saved = nbformat.read(page.save(), as_version=4).cells
    for number, name in enumerate(cells, 1):
        if name == "another_capture":
            (output,) = (each for each in saved[number].outputs if "blue" in each.data["text/plain"])
            assert "text/html" in output.data


def test_launches_panels_and_programs_in_an_output_widget(
    page: NotebookPage, server: ScriptedServer, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    wait, model = Wait(), Model()

    def answer(asked: Asked) -> Reply:
        first, *others = cumulative(WORDS, asked.json["rid"])
        return stream(first, wait, *others) if asked.json.get("stream") else model(asked)

    server.on("/generate", answer)
    in_output = "out = Output(); display(out)\nwith out: "
    page.open(
        [
            SETUP.format(url=server.url),
            "from support import fake_engine; fake_engine.install()\nfrom nbruntime import Runtime\n"
            f"{in_output}runtime = Runtime(engine='fake', port=0, gate={str(gate)!r})",
            f"{in_output}display(endpoint.panel())",
            "panel = endpoint.panel()\nHBox([panel])",
            "import sglang as sgl\nfrom nbruntime import RuntimeEndpoint\n"
            "sgl.set_default_backend(RuntimeEndpoint(endpoint.base_url, chat_template_name='chatml'))\n"
            "@sgl.function\n"
            "def ask(s): s += sgl.user('Why?') + sgl.assistant(sgl.gen('answer'))\n"
            f"{in_output}show_program(ask.run(stream=True))",
        ],
        "views-in-an-output",
    )
    page.run_cell(0)
    page.run_cell(1)
    launch = page.output(1)
    expect(launch.get_by_text("log", exact=True)).to_be_visible()
    gate.write_text("go")
    expect(launch).to_contain_text("ready after")
    for number in (2, 3):
        page.run_cell(number)
        panel = page.output(number)
        expect(panel).to_contain_text("answers")
        panel.get_by_role("button", name="Close panel").click()
        expect(panel).to_contain_text("answered at")
        is_frozen(panel)
    page.run_cell(4)
    program = page.output(4)
    expect(program).to_contain_text("running")
    assert wait.reached.wait(20)
    wait.go.set()
    expect(program).to_contain_text("finished")
    expect(program).to_contain_text("The sky is")
    page.await_idle()
    expect(launch).to_contain_text("ready after")
    page.screenshots("views-in-an-output")
