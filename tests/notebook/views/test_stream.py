"""The live view without a kernel: what it sends, how it ends, what it leaves behind."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any
from xml.etree import ElementTree

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbconvert import HTMLExporter, MarkdownExporter
from support.cell import Cell
from support.fake_engine import await_true
from support.html_checks import DANGEROUS
from support.leftovers import nothing_left_behind
from support.recording_comm import Messages, record_comms
from support.scripted_server import CUT, ScriptedServer, Wait, answer, cumulative, stream

from nbruntime import RuntimeEndpoint
from nbruntime.display.live_text import LiveText, text_html
from nbruntime.display.markdown import render_markdown, safe_markdown, while_growing
from nbruntime.endpoint import AsyncRuntimeEndpoint
from nbruntime.errors import ArgumentValueError, StreamError
from nbruntime.generation import Generation, Generations, GenerationStream
from nbruntime.generation.answer_html import LONGEST_ANSWER, answer_bundle
from nbruntime.notebook.views.answer import AnswerView
from nbruntime.notebook.views.draw_rate import DRAWS_PER_SECOND
from nbruntime.notebook.views.stream import StreamView, next_pause
from nbruntime.notebook.views.widgets import WidgetKit
from nbruntime.protocol.deltas import Delta
from nbruntime.protocol.requests import build_generate_request

WORDS = ["The ", "sky ", "is ", "**blue**", "."]
WHOLE = "".join(WORDS)

MESSAGE_BYTES = 600
"""Of a message to the front end, besides its content: identities, header and parent header."""


class Sent:
    """What widgets sent to a front end."""

    def __init__(self, messages: Messages) -> None:
        self.messages = messages

    def values(self) -> list[str]:
        states = [data["state"] for kind, data in self.messages if kind == "comm_msg" and "state" in data]
        return [state["value"] for state in states if "value" in state]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Stand in for the front end."""
    return Sent(record_comms(monkeypatch))


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        running.on("/generate", stream(*cumulative(WORDS)))
        yield running


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    with nothing_left_behind():
        yield


def events(*texts: str, done: bool = False) -> Iterator[bytes]:
    """Write an event of an incremental stream for each text."""
    for number, text in enumerate(texts, 1):
        last = done and number == len(texts)
        meta = {"finish_reason": {"type": "stop", "matched": 2} if last else None}
        yield f"data: {json.dumps({'text': text, 'meta_info': meta})}\n\n".encode()
    if done:
        yield b"data: [DONE]\n\n"


def given_body(body: Iterator[bytes]) -> GenerationStream:
    request = build_generate_request("Why?", stream=True)
    return GenerationStream(body, request, close=lambda: None, abort=lambda _: None)


def html_of(view: StreamView) -> str:
    return str(view.children[0].value)


def test_a_view_shows_the_answer_and_its_figures(endpoint: RuntimeEndpoint, sent: Sent) -> None:
    view = StreamView(endpoint.stream("Why is the sky blue?"))
    result = view.run()
    assert isinstance(result, Generation)
    assert result.text == WHOLE
    assert view.done
    html = html_of(view)
    ElementTree.fromstring(html)
    for shown in ("<strong>blue</strong>", "5 tokens", "TTFT", "length (5)"):
        assert shown in html
    assert '<span class="nbr-caret">' not in html
    assert any("nbr-caret" in message for message in map(str, sent.messages))
    view.close()


def test_the_static_form_has_text_markdown_and_html(endpoint: RuntimeEndpoint) -> None:
    running = endpoint.stream("x")
    running.result()
    bundle = answer_bundle(running.generations, running.error)
    assert bundle["text/plain"] == WHOLE
    assert bundle["text/markdown"] == WHOLE
    output = nbformat.v4.new_output("display_data", bundle)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[output])])
    for exporter in (HTMLExporter, MarkdownExporter):
        exported, _ = exporter().from_notebook_node(notebook)
        assert "<strong>blue</strong>" in exported or "**blue**" in exported


def test_size_of_a_draw_does_not_grow_with_the_answer(sent: Sent) -> None:
    line = "A line of *text* that says what the `sky` is like, and why it is so.\n"
    kit = WidgetKit()
    for kind, opening in (("prose", ""), ("code", "```python\n"), ("a list", "- a\n"), ("one line", "")):
        view = AnswerView(kit, title="", first=True, markdown=True, text=opening, began=0.0)
        text = {"a list": "- " + line, "one line": line.rstrip()}.get(kind, line)
        sent.messages.clear()
        sizes = []
        for number in range(300):
            view.add(
                Delta(
                    0,
                    text + ("\n" if number % 4 == 3 and kind == "prose" else ""),
                    number,
                    10,
                    False,
                    {},
                    False,
                )
            )
            before = len(sent.messages)
            view.draw()
            sizes.append(sum(len(json.dumps(message)) for message in sent.messages[before:]))
        early, late = max(sizes[25:150]), max(sizes[250:])
        print(f"{kind}: {early} bytes in the largest of the first draws, {late} in the largest of the last")
        assert late <= 1.5 * early
        assert late < 15_000
    kit.close()


CODE = "    return (1 + cos(angle) ** 2) / wavelength**4  # Rayleigh\n\ndef f(x: float) -> float:\n"


@pytest.mark.parametrize("size", [2, 3, 4])
def test_total_size_of_the_draws_of_code(sent: Sent, size: int) -> None:
    tokens, a_second, seconds, interval = 4000, 500, 0.0, 1 / DRAWS_PER_SECOND
    text = ("```python\n" + CODE * 300)[: tokens * size]
    kit, pause, came = WidgetKit(), interval, 0
    view = AnswerView(kit, title="", first=True, markdown=True, text="", began=0.0)
    sent.messages.clear()
    while came < tokens:
        seconds += pause
        new = range(came, min(tokens, round(seconds * a_second)))
        for number in new:
            view.add(Delta(0, text[number * size : (number + 1) * size], number, 1, False, {}, False))
        came += len(new)
        pause = next_pause(view.draw(), pause, interval)
    kit.close()
    drawn = sum(len(json.dumps(message)) + MESSAGE_BYTES for message in sent.messages)
    static = sum(map(len, answer_bundle([Generation(text)]).values()))
    print(f"{size} characters a token: {len(sent.messages)} messages, {drawn:,} bytes, {static:,} at the end")
    assert drawn + static < 300_000


@pytest.mark.parametrize("draws", [0, -1, 0.1, 21, 1000, float("nan"), float("inf"), "10", None])
def test_invalid_number_of_draws(endpoint: RuntimeEndpoint, draws: Any) -> None:
    with endpoint.stream("Why?") as stream, pytest.raises(ArgumentValueError, match=r"between 0\.5 and 20"):
        stream.widget(draws_per_second=draws)


@pytest.mark.parametrize(
    "text",
    ["x" * 1_000_000, "```\n" + "y = 1\n" * 170_000, "<&\x1b'\u202e" * 200_000],
    ids=["one word", "code", "marks"],
)
def test_a_megabyte_in_one_token_needs_only_small_draws(sent: Sent, text: str) -> None:
    def body() -> Iterator[bytes]:
        yield from events("Before. ", text)
        await_true(lambda: any("characters came at once" in value for value in sent.values()), 60)
        yield from events(" after.", done=True)

    view = StreamView(given_body(body()))
    result = view.run()
    assert isinstance(result, Generation)
    assert len(result.text) == len(text) + 15
    drawn = [value for value in sent.values() if "nbr-answers" not in value]
    assert any("characters came at once" in value for value in drawn)
    bundle = answer_bundle(view.stream.generations, view.stream.error)
    size = sum(len(form.encode()) for form in bundle.values())
    print(f"largest draw {max(map(len, drawn))} characters, static form {size / 1e6:.2f} MB")
    assert max(map(len, drawn)) < 30_000
    assert size < 3_000_000
    assert bundle["text/plain"].startswith("Before.")
    assert bundle["text/plain"].endswith("after.")
    assert "characters are not shown" in bundle["text/html"]
    ElementTree.fromstring(bundle["text/html"])
    view.close()


def test_long_text_that_arrives_at_once() -> None:
    live = LiveText()
    live.add("a" * 500_000 + " the end")
    settled = live.take_settled()
    assert "498,408 characters came at once" in settled[0]
    assert live.tail_html(growing=True).endswith('the end<span class="nbr-caret"></span></p>\n</div>')
    long = "\n\n".join(f"Paragraph {number}." for number in range(5000))
    assert len(long) < LONGEST_ANSWER
    assert "Paragraph 2500." in text_html(long, markdown=True)


@pytest.mark.parametrize("text", DANGEROUS)
def test_html_of_an_answer_is_sanitized(text: str) -> None:
    view = StreamView(given_body(events(*text, done=True)))
    view.run()
    bundle = answer_bundle(view.stream.generations, view.stream.error)
    view.close()
    for element in ElementTree.fromstring(bundle["text/html"]).iter():
        assert element.tag not in {"script", "img", "iframe", "object", "embed", "form", "input"}
        assert not any(name.startswith("on") for name in element.attrib)
    for form in bundle.values():
        assert not set(form) & set(
            map(chr, [*range(9), *range(11, 32), *range(0x202A, 0x202F), 0x2066, 0x200E])
        )
    # As a renderer of markdown sees it that lets HTML through.
    from markdown_it import MarkdownIt

    loose = MarkdownIt("commonmark", {"html": True})
    loose.validateLink = lambda _: True  # type: ignore[method-assign, assignment]
    rendered = loose.render(bundle["text/markdown"])
    assert not any(
        tag in rendered for tag in ("<script", "<img", "<iframe", "<style", 'javascript:alert(1)"')
    )
    assert 'href="data:' not in rendered
    assert not set(rendered) & set("\u202e\u2066\u200e\u200f")


def test_aria_status_is_set_at_the_end_only(sent: Sent) -> None:
    def body() -> Iterator[bytes]:
        yield from events(*WORDS)
        await_true(lambda: any("nbr-foot" in value for value in sent.values()))
        yield from events("", done=True)

    view = StreamView(given_body(body()))
    view.run()
    live = [value for value in sent.values() if "nbr-answers" not in value]
    assert any("nbr-foot" in value for value in live)
    assert not any("status" in value for value in live)
    assert html_of(view).count('role="status"') == 1
    view.close()


def test_markdown_of_several_answers_is_separate() -> None:
    answers = [
        Generation("```py\nx = 1", index=0),
        Generation("- a\n  ~~~\n  b", index=1),
        Generation("*c*", index=2),
    ]
    marked = answer_bundle(answers, StreamError("The stream broke off"))["text/markdown"]
    html = render_markdown(marked)
    print(marked)
    assert [html.count(part) for part in ("<strong>", "<em>c</em>", "</code></pre>")] == [3, 1, 2]
    assert marked.endswith("\n\n[The stream broke off]")
    stopped = answer_bundle([Generation("x")], ending="stopped")["text/markdown"]
    assert stopped == "x\n\n[stopped]"


def test_harmless_markdown_is_unchanged() -> None:
    for text in (WHOLE, "a < b", "`<script>`", "[x](https://example.org)", "```html\n<b>\n```"):
        assert safe_markdown(text) == text
    assert safe_markdown("```{=html}\n<script>\n```").startswith("````text\n")


growing = st.lists(
    st.sampled_from(
        ["word ", "**", "*", "`", "```\n", "\n", "\n\n", "- ", "1. ", "[a](http://x", ")", "| a ", "#"]
    ),
    max_size=60,
).map("".join)


@given(growing)
def test_a_growing_tail_hides_only_markdown_marks(text: str) -> None:
    shown = while_growing(text)
    assert [c for c in shown if c.isalpha()] == [c for c in text if c.isalpha()][
        : sum(map(str.isalpha, shown))
    ]
    ElementTree.fromstring(f"<div>{render_markdown(shown)}</div>")
    live = LiveText()
    live.add(text)
    ElementTree.fromstring(live.tail_html(growing=True))


def test_stop_aborts_on_the_server(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    wait = Wait()
    server.on("/generate", stream(*cumulative(WORDS)[:2], wait, done=False))
    view = endpoint.stream("x").widget()
    await_true(lambda: view.stream.texts_read == ["The sky "])
    view._stop_button.click()
    assert view.wait(10)
    server.wait_for("/abort_request")
    assert "stopped" in html_of(view)
    assert "The sky" in html_of(view)
    view.close()


def test_closing_a_running_view_aborts_the_request(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    wait = Wait()
    server.on("/generate", stream(*cumulative(WORDS)[:2], wait, done=False))
    view = StreamView(endpoint.stream("x")).start()
    assert wait.reached.wait(10)
    view.close()
    assert view.wait(10)
    server.wait_for("/abort_request")
    never_started = StreamView(endpoint.stream("x"))
    never_started.close()
    server.wait_for("/abort_request", 2)


def test_error_keeps_the_text_received_so_far(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", stream(*cumulative(WORDS)[:2], CUT, done=False))
    view = StreamView(endpoint.stream("x"))
    with pytest.raises(StreamError) as caught:
        view.run()
    assert caught.value.text == "The sky "
    html = html_of(view)
    assert "The sky" in html
    assert "▲</span> The stream broke off after 2 tokens" in html
    assert "stopped" not in html
    view.close()


def test_an_interrupt_marks_the_partial_text() -> None:
    def chunks() -> Iterator[bytes]:
        yield b'data: {"text": "So far", "output_ids": [1], "meta_info": {"completion_tokens": 1}}\n\n'
        raise KeyboardInterrupt

    aborted: list[Any] = []
    request = build_generate_request("x", stream=True)
    view = StreamView(GenerationStream(chunks(), request, close=lambda: None, abort=aborted.append))
    with pytest.raises(KeyboardInterrupt):
        view.run()
    assert "So far" in html_of(view)
    assert "interrupted" in html_of(view)
    assert aborted == [(view.stream.rid,)]
    assert (
        answer_bundle(view.stream.generations, ending="interrupted")["text/plain"] == "So far\n[interrupted]"
    )
    view.close()


def test_several_answers_are_shown_one_below_the_other(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    events = [
        {**answer(text, id=str(index), finish_reason=reason), "index": index}
        for text, index, reason in [
            ("One ", 0, None),
            ("Three", 2, {"type": "stop", "matched": 2}),
            ("One *more*", 0, {"type": "stop", "matched": 2}),
            ("Two", 1, {"type": "length", "length": 1}),
        ]
    ]
    server.on("/generate", stream(*events))
    view = StreamView(endpoint.stream(["first prompt", "second <prompt>", "third"]))
    result = view.run()
    assert isinstance(result, Generations)
    assert [each.text for each in result] == ["One *more*", "Two", "Three"]
    text = "".join(ElementTree.fromstring(html_of(view)).itertext())
    places = [
        text.index(part) for part in ("1 of 3 · first", "One more", "2 of 3 · second <", "Two", "Three")
    ]
    assert places == sorted(places)
    view.close()


def test_a_view_takes_over_a_stream_that_was_read_in_part(endpoint: RuntimeEndpoint, sent: Sent) -> None:
    running = endpoint.stream("x")
    assert next(running) == "The "
    assert running.texts_read == ["The "]
    view = StreamView(running)
    view.run()
    assert "<p>The sky is <strong>blue</strong>.</p>" in html_of(view)
    view.close()


def test_in_a_terminal_the_text_is_printed(
    server: ScriptedServer, endpoint: RuntimeEndpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("/generate", stream(*cumulative([*WORDS, "\x1b[31m"])))
    result = StreamView(endpoint.stream("x")).show()
    assert isinstance(result, Generation)
    printed = capsys.readouterr().out
    assert printed.startswith(f"{WHOLE}␛[31m\n  6 tokens")
    assert "StreamView" not in printed
    read_in_part = endpoint.stream("x")
    next(read_in_part)
    StreamView(read_in_part).show()
    assert capsys.readouterr().out.startswith(WHOLE)
    displayed = endpoint.stream("x")
    displayed._ipython_display_()
    assert capsys.readouterr().out.startswith(WHOLE)
    assert displayed.text == f"{WHOLE}\x1b[31m"
    view = StreamView(displayed)
    view.show()
    view.show()
    assert capsys.readouterr().out.count("sky") == 2
    server.on("/generate", stream(*cumulative(WORDS)[:2], CUT, done=False))
    endpoint.stream("x")._ipython_display_()
    assert capsys.readouterr().out.splitlines()[-1].startswith("[The stream broke off after 2 tokens")


def test_a_stream_shows_itself_as_a_card(endpoint: RuntimeEndpoint) -> None:
    running = endpoint.stream("x")
    assert "running" in running._repr_mimebundle_()["text/plain"]
    result = running.result()
    for shown in (running, result):
        bundle = shown._repr_mimebundle_()  # type: ignore[union-attr]
        assert WHOLE in bundle["text/plain"]
        ElementTree.fromstring(bundle["text/html"])


def test_a_stream_that_was_aborted_has_not_finished(
    server: ScriptedServer, endpoint: RuntimeEndpoint
) -> None:
    first, last = cumulative(WORDS[:2])
    last["meta_info"]["finish_reason"] = {"type": "abort"}
    wait = Wait()
    server.on("/generate", stream(first, wait, last))
    running = endpoint.stream("x")
    assert next(running) == "The "
    running.abort()
    wait.go.set()
    running.result()
    assert "· stopped" in running._repr_mimebundle_()["text/plain"]


def test_generations_are_a_list() -> None:
    answers = Generations([Generation("4 <b>", index=0), Generation("four\x1b", index=1)])
    assert answers == [Generation("4 <b>", index=0), Generation("four\x1b", index=1)]
    assert pickle.loads(pickle.dumps(answers)) == answers
    assert [each.text for each in answers[1:]] == ["four\x1b"]
    bundle = answers._repr_mimebundle_()
    assert "2 generations" in bundle["text/plain"]
    assert "\x1b" not in repr(answers)
    assert "4 <b>" in "".join(ElementTree.fromstring(bundle["text/html"]).itertext())


async def test_a_view_in_a_task(server: ScriptedServer) -> None:
    async with AsyncRuntimeEndpoint(server.url) as endpoint:
        view = StreamView(await endpoint.stream("x"))
        result = await view.run_async()
        assert isinstance(result, Generation)
        assert result.text == WHOLE
        view.close()
        wait = Wait()
        server.on("/generate", stream(*cumulative(WORDS)[:2], wait, done=False))
        view = StreamView(await endpoint.stream("x"))
        task = asyncio.create_task(view.run_async())
        await asyncio.to_thread(wait.reached.wait, 10)
        await until(lambda: view.stream.texts[0] == "The sky ")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(server.wait_for, "/abort_request")
        assert "interrupted" in html_of(view)
        assert "The sky" in html_of(view)
        view.close()


async def test_started_async_view_is_stopped(server: ScriptedServer) -> None:
    wait = Wait()
    server.on("/generate", stream(*cumulative(WORDS)[:2], wait, done=False))
    async with AsyncRuntimeEndpoint(server.url) as endpoint:
        view = StreamView(await endpoint.stream("x")).start()
        await asyncio.to_thread(wait.reached.wait, 10)
        view.stop()
        await until(lambda: view.done)
        await asyncio.to_thread(server.wait_for, "/abort_request")
        assert "stopped" in html_of(view)
        view.close()


async def test_awaiting_a_blocking_stream(server: ScriptedServer) -> None:
    with RuntimeEndpoint(server.url) as endpoint:
        view = StreamView(endpoint.stream("x"))
        assert str(await view.run_async()) == WHOLE
        view.close()


async def test_awaiting_many_blocking_streams(server: ScriptedServer) -> None:
    server.on("/generate", lambda _asked: stream(*cumulative(WORDS)[:2], Wait(), done=False))
    with RuntimeEndpoint(server.url) as endpoint:
        views = [StreamView(endpoint.stream("x")) for _ in range(min(32, (os.cpu_count() or 1) + 4) + 1)]
        tasks = [asyncio.create_task(view.run_async()) for view in views]
        await until(lambda: all(view.stream.texts_read == ["The sky "] for view in views))
        for view in views:
            view.stop()
        await asyncio.gather(*tasks, return_exceptions=True)
        for view in views:
            view.close()


def test_a_view_shown_while_it_ends_becomes_static(
    endpoint: RuntimeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = Cell()
    cell.install(monkeypatch)
    ending, go_on = threading.Event(), threading.Event()

    class Slow(StreamView):
        def _close_widgets(self) -> None:
            ending.set()
            go_on.wait(10)
            super()._close_widgets()

    view = Slow(endpoint.stream("x"))
    view.show(block=False)
    assert ending.wait(10)
    again = threading.Thread(target=view.show, kwargs={"block": False})
    again.start()
    again.join(0.2)
    go_on.set()
    again.join(10)
    assert view.wait(10)
    seen = [["text/html" in bundle for bundle in output] for output in cell.outputs]
    assert seen == [[False, True], [True]]


def test_a_view_can_be_closed_while_it_ends(
    endpoint: RuntimeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = StreamView(endpoint.stream("x"))
    ending, go_on = threading.Event(), threading.Event()

    freeze = WidgetKit.freeze

    def freeze_slowly(kit: WidgetKit, box: Any, html: str) -> None:
        ending.set()
        go_on.wait(10)
        freeze(kit, box, html)

    monkeypatch.setattr(WidgetKit, "freeze", freeze_slowly)  # puts the static form into the view
    view.start()
    assert ending.wait(10)
    closing = threading.Thread(target=view.close)
    closing.start()
    closing.join(0.2)
    go_on.set()
    closing.join(10)
    assert view.comm is None


def test_a_view_can_be_closed_after_its_event_loop(server: ScriptedServer) -> None:
    async def make() -> StreamView:
        async with AsyncRuntimeEndpoint(server.url) as endpoint:
            return StreamView(await endpoint.stream("x"))

    view = asyncio.run(make())
    view.close()
    assert view.comm is None


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)
