"""What notebooks show: JupyterLab and Notebook 7 in a real browser, and files that are read without a kernel.

Pictures of it are left in ``artifacts/``, for a person to look at.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from playwright.sync_api import Browser, Locator, expect
from support.browser import App, JupyterServer, NotebookPage
from support.fake_engine import await_true
from support.scripted_server import CUT, Asked, Reply, ScriptedServer, Wait, cumulative, stream

pytestmark = pytest.mark.browser

LOAD = {
    "num_running_reqs": 3,
    "num_waiting_reqs": 1,
    "num_used_tokens": 50,
    "max_total_num_tokens": 200,
    "gen_throughput": 42.0,
    "cache_hit_rate": 0.5,
}

STORY = [
    "Light from the sun is **scattered** by the air, and blue light more than red.\n\n",
    "| colour | wavelength |\n|---|---|\n| blue | 450 nm |\n| red | 700 nm |\n\n",
    "```python\ndef scattered(wavelength: float) -> float:\n    return wavelength**-4  # Rayleigh\n```\n\n",
    "So the sky is blue: `scattered(450) / scattered(700)` is nearly 6.",
]

HOSTILE = (
    '<script>window.harm = 1; alert("script")</script>\n\n'
    '<img src="x" onerror="window.harm = 1; alert(1)"> <iframe src="https://evil.example/frame"></iframe>\n\n'
    '<svg onload="window.harm = 1"></svg><style>body { display: none }</style>\n\n'
    "![picture](https://evil.example/picture.png) [link](javascript:window.harm=1)\n\n"
    '<a href="https://evil.example" onmouseover="window.harm = 1">hover</a> <form action="/api/shutdown">\n\n'
    "\x1b[2J\x1b]0;title\x07 \u202edesrever\u202c </div></pre></code>--> ]]>\n\n"
    "It costs $5 for one and $10 for two; \\(x\\), $$\\rule{5000px}{100px}$$, "
    "$\\href{javascript:window.harm=1}{here}$\n\n"
    '```html\n<script>window.harm = 1</script>\n```\n\n"the end" \'<b onclick=alert(1)>\n'
)

CARD = "from nbruntime.generation import Generation\nGeneration(hostile.text[:2000])"
FORMULA = "from IPython.display import HTML\nHTML('<p>From $5$ to</p>')"
"""A cell that shows the card of an answer, and one whose output Jupyter typesets."""


class Server(ScriptedServer):
    """Tells its load, ends streams that are aborted, and can seem dead."""

    def __init__(self) -> None:
        super().__init__()
        self.load = dict(LOAD)
        self.dead = False
        self.aborted_at = 0.0
        self.pause: Wait | None = None
        self.on("/v1/loads", lambda _asked: Reply(json={"loads": [self.load]}))
        self.on("/abort_request", self._abort)

    def respond(self, asked: Asked) -> Reply:
        reply = super().respond(asked)
        return Reply(pieces=[CUT]) if self.dead else reply

    def tells(self, *texts: str) -> list[Wait]:
        """Answer with these texts, and wait after each but the last until the test says go."""
        waits = [Wait() for _ in texts[1:]]

        def reply(asked: Asked) -> Reply:
            events = cumulative(list(texts), asked.json["rid"])
            pieces: list[Any] = [events[0]]
            for wait, event in zip(waits, events[1:], strict=True):
                pieces += [wait, event]
            return stream(*pieces)

        self.on("/generate", reply)
        return waits

    def tells_until_aborted(self, text: str) -> Wait:
        """Answer with a text and no end, until the request is aborted."""
        self.pause = wait = Wait()

        def reply(asked: Asked) -> Reply:
            (event,) = cumulative([text], asked.json["rid"])
            event["meta_info"]["finish_reason"] = None
            last = {**event, "meta_info": {**event["meta_info"], "finish_reason": {"type": "abort"}}}
            return stream(event, wait, last)

        self.on("/generate", reply)
        return wait

    def polls(self) -> int:
        return len(self.to("/v1/loads"))

    def _abort(self, _asked: Asked) -> Reply:
        self.aborted_at = self.aborted_at or time.monotonic()
        if self.pause is not None:
            self.pause.go.set()
        return Reply(body=b"")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as started:
        yield started


@pytest.fixture
def lab(jupyter: JupyterServer, browser: Browser, request: pytest.FixtureRequest) -> Iterator[NotebookPage]:
    """JupyterLab; Notebook 7 where a test asks for both."""
    with NotebookPage(jupyter, browser, getattr(request, "param", "lab")) as page:
        yield page
        harmless(page)


in_both = pytest.mark.parametrize("lab", ["lab", "notebook"], indirect=True)
"""Of a test that holds in either front end."""


def harmless(page: NotebookPage) -> None:
    """Nothing was fetched from elsewhere, and nothing asked for attention."""
    assert page.foreign == []
    assert page.dialogs == []


def go(wait: Wait) -> None:
    assert wait.reached.wait(20)
    wait.go.set()


def connected(server: Server, *cells: str) -> list[str]:
    """Cells, after one that connects to the server."""
    return [f"%load_ext nbruntime\n%sgl_connect {server.url} --name scripted -o endpoint", *cells]


def is_static(output: Locator) -> None:
    """No widget is left in an output."""
    expect(output.locator(".jupyter-widgets")).to_have_count(0)


# Streams


@pytest.mark.parametrize("app", ["lab", "notebook"])
def test_a_stream_is_seen_growing_and_read_again(
    jupyter: JupyterServer, browser: Browser, server: Server, app: App
) -> None:
    waits = server.tells(*STORY)
    cells = connected(
        server,
        "%%sgl_generate -o answer\nWhy is the sky blue?",
        "len(answer.text), answer.finish_reason.type",
    )
    with NotebookPage(jupyter, browser, app) as page:
        page.open(cells, f"stream-{app}")
        page.run_all(wait=False)
        answer = page.output(1)
        seen = []
        for text, wait in zip(("more than red", "700 nm", "Rayleigh"), waits, strict=True):
            expect(answer).to_contain_text(text)
            expect(answer.locator(".nbr-caret")).to_be_visible()
            expect(answer).to_contain_text("token")
            seen.append(answer.inner_text())
            if text == "Rayleigh":
                page.screenshots(f"stream-growing-{app}")
            go(wait)
        expect(answer).to_contain_text("nearly 6")
        expect(answer.locator(".nbr-caret")).to_have_count(0)
        page.await_idle()
        is_static(answer)
        lengths = [len(text) for text in [*seen, answer.inner_text()]]
        print(f"{app}: the output had {lengths} characters")
        assert lengths == sorted(set(lengths))
        expect(answer.locator("strong")).to_have_text("scattered")
        expect(answer.locator("table")).to_contain_text("450 nm")
        for figure in ("4 tokens", "tokens/s", "TTFT", "length"):
            expect(answer).to_contain_text(figure)
        expect(page.output(2)).to_contain_text(f"({len(''.join(STORY))}, 'length')")
        page.screenshots(f"stream-{app}")

        for trusted in (True, False):
            page.reopen(trusted=trusted)
            for part in ("scattered", "700 nm", "Rayleigh", "nearly 6", "TTFT"):
                expect(page.output(1)).to_contain_text(part)
            is_static(page.output(1))
            page.screenshot(f"stream-{app}-{'trusted' if trusted else 'untrusted'}")
        harmless(page)


@in_both
def test_interrupt_stops_a_cell_that_waits(lab: NotebookPage, server: Server) -> None:
    wait = server.tells_until_aborted("What has come stays.")
    lab.open(
        connected(server, "%%sgl_generate -o partial\nTell me all.", "print(len(partial.text), partial.rid)"),
        "interrupt",
    )
    lab.run_cell(0)
    lab.run_cell(1)
    answer = lab.output(1)
    expect(answer).to_contain_text("What has come stays.")
    assert wait.reached.wait(20)

    lab.page.get_by_role("menuitem", name="Kernel", exact=True).click()
    begun = time.monotonic()
    lab.page.get_by_role("menuitem", name="Interrupt Kernel").click()
    server.wait_for("/abort_request")
    expect(answer).to_contain_text("interrupted")
    lab.await_idle()
    ended = time.monotonic()
    print(
        f"from the click to the abort {server.aborted_at - begun:.2f} s; "
        f"from there to the end of the cell {ended - server.aborted_at:.2f} s"
    )
    assert server.aborted_at - begun < 5.0  # also on a busy machine
    assert ended - begun < 10.0  # with all that the page draws
    expect(answer).to_contain_text("What has come stays.")
    expect(answer).to_contain_text("the text received so far is in partial")
    expect(answer).not_to_contain_text("Traceback")
    is_static(answer)
    (asked,) = server.to("/generate")
    assert {body.json["rid"] for body in server.to("/abort_request")} == {asked.json["rid"]}
    lab.run_cell(2)
    expect(lab.output(2)).to_contain_text(f"20 {asked.json['rid']}")
    lab.screenshots(f"interrupted-{lab.app}")


@in_both
def test_the_stop_button_of_a_stream_that_does_not_block(lab: NotebookPage, server: Server) -> None:
    wait = server.tells_until_aborted("On and on.")
    lab.open(
        connected(
            server,
            'stream = endpoint.stream("Tell me all.")\nstream',
            "print('meanwhile')",
            "answer = stream.result()\nprint(len(answer.text), answer.finish_reason)",
        ),
        "stop",
    )
    for number in range(3):
        lab.run_cell(number)
    answer = lab.output(1)
    expect(lab.output(2)).to_contain_text("meanwhile")
    expect(answer).to_contain_text("On and on.")
    assert wait.reached.wait(20)
    lab.screenshots(f"stop-button-{lab.app}")
    lab.page.get_by_role("button", name="Stop", exact=True).click()
    server.wait_for("/abort_request")
    expect(answer).to_contain_text("stopped")
    expect(answer).to_contain_text("On and on.")
    is_static(answer)
    lab.run_cell(3)
    expect(lab.output(3)).to_contain_text("10 abort")


def test_streams_side_by_side_in_a_layout(lab: NotebookPage, server: Server) -> None:
    waits = {name: Wait() for name in ("left", "right")}

    def reply(asked: Asked) -> Reply:
        name = asked.json["text"]
        first, second = cumulative(
            [f"The {name} one began", f" and the {name} one ended."], asked.json["rid"]
        )
        return stream(first, waits[name], second)

    server.on("/generate", reply)
    lab.open(
        connected(
            server,
            "import ipywidgets\nstreams = [endpoint.stream(name) for name in ('left', 'right')]\n"
            "ipywidgets.HBox([stream.widget() for stream in streams])",
            "[stream.result().text for stream in streams]",
        ),
        "layout",
    )
    lab.run_cell(0)
    lab.run_cell(1)
    both = lab.output(1)
    for name in waits:
        expect(both).to_contain_text(f"The {name} one began")
    left, right = (both.get_by_text(f"The {name} one began").bounding_box() for name in waits)
    assert left is not None
    assert right is not None
    assert left["x"] + left["width"] + 16 <= right["x"]
    stop = both.get_by_role("button", name="Stop").first.bounding_box()
    figures = both.locator(".nbr-foot span").first.bounding_box()
    assert stop is not None
    assert figures is not None
    assert figures["x"] + figures["width"] <= stop["x"]
    go(waits["right"])
    expect(both).to_contain_text("and the right one ended.")
    expect(both).not_to_contain_text("and the left one ended.")
    lab.screenshot("side-by-side")
    go(waits["left"])
    expect(both).to_contain_text("and the left one ended.")
    lab.run_cell(2)
    expect(lab.output(2)).to_contain_text("left one ended.', 'The right one began")


def test_hostile_answers_run_no_script(lab: NotebookPage, server: Server) -> None:
    cut = len(HOSTILE) // 2
    (wait,) = server.tells(HOSTILE[:cut], HOSTILE[cut:] + "x" * 1_000_000)
    lab.open(
        connected(server, "%%sgl_generate -o hostile\n<script>alert(2)</script>", "hostile", FORMULA),
        "hostile",
    )
    lab.run_all(wait=False)
    answer, card = lab.output(1), lab.output(2)
    expect(answer).to_contain_text("window.harm")
    unharmed(lab, answer)
    go(wait)
    expect(answer).to_contain_text("length")  # why it ended
    is_static(answer)
    expect(answer).to_contain_text("the end")
    for trusted in (None, True, False):
        if trusted is not None:
            lab.reopen(trusted=trusted)
        expect(answer).to_contain_text("the end")
        expect(lab.output(3).locator("mjx-container")).to_have_count(1)  # now all formulas are typeset
        for output in (answer, card):
            expect(output).to_contain_text("It costs $5 for one and $10 for two;")
            unharmed(lab, output)
        lab.screenshot(f"hostile-{trusted}")


def unharmed(page: NotebookPage, output: Locator) -> None:
    """Everything is shown, and nothing is obeyed."""
    page.page.mouse.move(400, 400)
    shown = output.locator(".jp-OutputArea-output")
    expect(shown.locator("script, img, iframe, form, object, embed, link, svg, mjx-container")).to_have_count(
        0
    )
    assert shown.locator("[onclick], [onload], [onerror], [onmouseover], [href^='javascript']").count() == 0
    assert page.run_js("window.harm") is None
    assert page.run_js("getComputedStyle(document.body).display") != "none"
    text = output.inner_text()
    assert "\x1b" not in text
    assert "\u202e" not in text
    harmless(page)


# Servers


@in_both
def test_the_panel_follows_the_load_and_rests_when_hidden(lab: NotebookPage, server: Server) -> None:
    rests = "from fake_engine import await_true\nawait_true(lambda: not panel.polling)\nprint('it rests')"
    lab.open(connected(server, "panel = endpoint.panel(interval=0.1)\npanel", rests), "panel")
    lab.run_cell(0)
    lab.run_cell(1)
    panel = lab.output(1)
    for said in ("scripted-model", "answers", "SGLang 0.5.23", "42 tokens/s", "25 %"):
        expect(panel).to_contain_text(said)
    drawn = lines(panel)
    server.load |= {"num_running_reqs": 7, "gen_throughput": 77.0, "num_used_tokens": 150}
    for said in ("77 tokens/s", "75 %", re.compile(r"7\s+running")):
        expect(panel).to_contain_text(said)
    assert lines(panel) != drawn

    lab.clear(1)
    lab.run_cell(2)
    expect(lab.output(2)).to_contain_text("it rests")
    before = server.polls()
    lab.page.wait_for_timeout(1000)  # ten intervals, in which nothing happens
    assert server.polls() == before

    lab.run_cell(1)
    expect(panel).to_contain_text("77 tokens/s")
    await_true(lambda: server.polls() > before)
    lab.screenshots(f"panel-{lab.app}", panel)
    saved = nbformat.read(lab.save(), as_version=4).cells[1].outputs[0].data
    assert "77 tokens/s" in saved["text/plain"]  # of the panel that is open
    assert ">77</b>" in saved["text/html"]
    panel.get_by_role("button", name="Close panel").click()
    is_static(panel)
    lab.clear(2)
    lab.run_cell(2)
    expect(lab.output(2)).to_contain_text("it rests")
    lab.reopen(trusted=True)
    expect(lab.output(1)).to_contain_text("77 tokens/s")
    expect(lab.output(1).locator(".nbr-chart path").first).to_be_visible()


def lines(panel: Locator) -> list[str | None]:
    """The lines of the charts in a panel."""
    return [path.get_attribute("d") for path in panel.locator(".nbr-chart path").all()]


# A real model


@pytest.mark.model
def test_a_real_model_from_launch_to_end(lab: NotebookPage) -> None:
    lab.open(
        [
            "%load_ext nbruntime\n%sgl_launch --name small -o runtime",
            "%%sgl_generate -o answer --temperature 0 --max-new-tokens 24\nThe capital of France is",
            "%%sgl_chat --temperature 0 --max-new-tokens 40\nWhat is a prime number?",
            "%sgl_info --live",
            "running = runtime.endpoint.stream('The sea', max_new_tokens=4000, ignore_eos=True)",
            "running.close()\n%sgl_stop small",
            "print(answer.text)\nconversation",
        ],
        "real",
    )
    lab.run_cell(0)
    expect(lab.output(0)).to_contain_text("small is ready", timeout=120_000)
    for number in range(1, 5):
        lab.run_cell(number)
    expect(lab.output(1)).to_contain_text("Paris")
    expect(lab.output(2)).to_contain_text("divi")
    panel = lab.output(3)
    expect(panel).to_contain_text("SmolLM2-135M-Instruct")
    # What its chart says for a while, of a request that runs until it was seen.
    expect(panel).to_contain_text(re.compile(r"generation: between \S+ and [1-9]"))
    expect(panel.locator(".nbr-chart path").first).to_be_visible()
    lab.await_idle()
    expect(panel).to_contain_text("TTFT")  # from its metrics
    lab.screenshots("real-answers")
    panel.scroll_into_view_if_needed()
    lab.screenshots("real-panel", panel)
    lab.run_cell(5)
    expect(lab.output(5)).to_contain_text("small")
    expect(panel).to_contain_text(re.compile(r"stopped, seen at|no answer since"))
    lab.run_cell(6)
    expect(lab.output(6)).to_contain_text("Paris")
    expect(lab.output(6)).to_contain_text("1 turn")
    lab.reopen(trusted=True)
    expect(lab.output(1)).to_contain_text("Paris")
    expect(lab.output(2)).to_contain_text("divi")


# Files


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A notebook with answers of every kind, executed by nbclient, which stores the state of widgets."""
    with Server() as server:
        server.tells(*STORY[:1])
        cells = connected(
            server,
            "%%sgl_generate -o answer\nWhy?",
            "answer",
            "view = endpoint.stream('Why?').widget()\nview.wait(20)\nview.show()",
            "%%sgl_generate --no-stream --plain\nWhy?",
            "[answer, answer]",
        )
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        server.on("/generate", _streamed_or_not)
        NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    path = tmp_path_factory.mktemp("executed") / "executed.ipynb"
    nbformat.write(notebook, path)
    return path


def _streamed_or_not(asked: Asked) -> Reply:
    (event,) = cumulative(STORY[:1], asked.json["rid"])
    return stream(event) if asked.json.get("stream") else Reply(json=event)


@pytest.mark.kernel
@pytest.mark.parametrize("form", ["html", "markdown"])
def test_nbconvert_keeps_every_answer(executed: Path, form: str, tmp_path: Path) -> None:
    converted = convert(executed, form, tmp_path)
    text = re.sub(r"<style.*?</style>|<script.*?</script>", "", converted, flags=re.DOTALL)
    count = len(re.findall(r"scattered\W", text))
    print(f"{form}: {len(converted):,} characters, the answer {count} times")
    assert count == 7  # a list has it more than once
    assert "FloatProgress" not in converted
    assert "widget-view" not in text


def convert(path: Path, form: str, folder: Path) -> str:
    command: Sequence[str] = (
        *(sys.executable, "-m", "jupyter", "nbconvert", "--to", form),
        *("--output-dir", str(folder), "--output", "converted", str(path)),
    )
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (made,) = folder.glob("converted.*")
    return made.read_text(encoding="utf-8")
