"""The magics in a plain IPython shell, as in a terminal, against a scripted server."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from support import fake_engine
from support.ipython_shell import completions, failure, notebook_shell, run
from support.kernel import Kernel, shown_in
from support.scripted_server import CUT, Asked, Reply, ScriptedServer, Wait, answer, cumulative, stream

from nbruntime import errors
from nbruntime.chat.conversation import Conversation
from nbruntime.endpoint import RuntimeEndpoint
from nbruntime.generation import Generation, Generations
from nbruntime.launch import registry
from nbruntime.launch.supervisor.record import LOG
from nbruntime.notebook.magics import generation_magics, known_servers
from nbruntime.notebook.magics.presenting import show_stream
from nbruntime.notebook.magics.prompts import fill_template
from nbruntime.runtime import Runtime

WORDS = ["Once", " upon", " a", " time"]
TEXT = "".join(WORDS)


@pytest.fixture(autouse=True)
def of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Look at no server but those of the test, and leave none."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with fake_engine.installed():
        yield
        for server in known_servers._named.values():
            if isinstance(server, Runtime):
                server.shutdown()
        known_servers._named.clear()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[InteractiveShell]:
    with notebook_shell(tmp_path) as made:
        run(made, "%load_ext nbruntime")
        yield made
        run(made, "%unload_ext nbruntime")


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        running.on("/generate", _story)
        running.on("/tokenize", Reply(json={"tokens": [1, 2, 3], "count": 3, "max_model_len": 100}))
        yield running


def _story(asked: Asked) -> Reply:
    if not asked.json.get("stream"):
        return Reply(json=answer(TEXT, id=asked.json["rid"]))
    return stream(*cumulative(WORDS, asked.json["rid"]))


@pytest.fixture
def connected(shell: InteractiveShell, server: ScriptedServer) -> InteractiveShell:
    run(shell, f"%sgl_connect {server.url} --name main")
    return shell


def sent(server: ScriptedServer) -> dict[str, Any]:
    """What the last request asked for."""
    body: dict[str, Any] = server.to("/generate")[-1].json
    return body


def sampling(server: ScriptedServer) -> dict[str, Any]:
    params: dict[str, Any] = sent(server)["sampling_params"]
    return params


def usage_error(shell: InteractiveShell, code: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a cell that is used wrongly: its error, which is shown without a traceback."""
    capsys.readouterr()
    error = failure(shell, code)
    assert type(error) is UsageError
    shown = capsys.readouterr()
    assert shown.err == f"UsageError: {error}\n"
    assert "Traceback" not in shown.out + shown.err
    return str(error)


# %%sgl_generate


def test_the_cell_is_the_prompt(
    connected: InteractiveShell, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    run(connected, "%%sgl_generate -o story\nTell {json} and {{name}} %s $HOME\n  twice:\n\n")
    assert sent(server)["text"] == "Tell {json} and {{name}} %s $HOME\n  twice:\n"
    story = connected.user_ns["story"]
    assert isinstance(story, Generation)
    assert (story.text, story.finish_reason.type) == (TEXT, "length")  # type: ignore[union-attr]
    assert connected.user_ns["_sgl"] is story
    shown = capsys.readouterr().out
    print(shown)
    assert shown.startswith(f"{TEXT}\n")
    assert "4 tokens" in shown


def test_text_streams_to_the_terminal(
    connected: InteractiveShell, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = Wait()
    first, *others = cumulative(WORDS)
    server.on("/generate", stream(first, wait, *others))
    pieces: list[str] = []

    class Terminal:
        def write(self, text: str) -> int:
            pieces.append(text)
            if text == "Once":
                wait.go.set()
            return len(text)

        def flush(self) -> None:
            pass

    monkeypatch.setattr(sys, "stdout", Terminal())
    run(connected, "%%sgl_generate -o story\nTell me:")  # the server goes on when the first word is there
    assert connected.user_ns["story"].text == TEXT
    assert [piece for piece in pieces if piece][:4] == WORDS


def test_a_terminal_obeys_nothing_of_an_answer(
    connected: InteractiveShell, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("/generate", stream(*cumulative(["\x1b[31m", "\u202edrow"])))
    run(connected, "%%sgl_generate\nx")
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "␛[31m" in shown


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--temperature 0.5", {"temperature": 0.5}),
        ("--max-new-tokens 7 --min-new-tokens=2", {"max_new_tokens": 7, "min_new_tokens": 2}),
        ("--max_new_tokens 7", {"max_new_tokens": 7}),
        ("--top-p .9 --top-k -1 --min-p 0.1", {"top_p": 0.9, "top_k": -1, "min_p": 0.1}),
        (
            "--frequency-penalty -1 --presence-penalty 1 --repetition-penalty 1.2",
            {"frequency_penalty": -1.0, "presence_penalty": 1.0, "repetition_penalty": 1.2},
        ),
        (r'--stop "\n\n" . --stop "the end"', {"stop": ["\n\n", ".", "the end"]}),
        ("--ignore-eos --sampling-seed 3 --seed 4", {"ignore_eos": True, "sampling_seed": 4}),
        (r"--regex '\d{4}-[a-z]{2,}'", {"regex": r"\d{4}-[a-z]{2,}"}),
        (r"--regex (yes|no)$", {"regex": "(yes|no)$"}),
        ("--ebnf 'root ::= \"a\"'", {"ebnf": 'root ::= "a"'}),
        ("--json-schema shape", {"json_schema": '{"type": "object"}'}),
        ("--json-schema shape.json", {"json_schema": '{"type": "array"}'}),
        ("--temperature {2 / 4} --max-new-tokens $few", {"temperature": 0.5, "max_new_tokens": 3}),
        ("--temperature 1e-1 --frequency-penalty -1e-1", {"temperature": 0.1, "frequency_penalty": -0.1}),
        ("--stop {dashes} '--token' $dashes -1", {"stop": ["--be_brief x", "--token", "--be_brief x", "-1"]}),
        ("--stop=--be_brief --stop={dashes}", {"stop": ["--be_brief", "--be_brief x"]}),
        (r"--regex 'a\"b\d' --stop 'C:\dir\'", {"regex": r"a\"b\d", "stop": ["C:\\dir\\"]}),
    ],
)
def test_sampling(connected: InteractiveShell, server: ScriptedServer, line: str, expected: Any) -> None:
    Path("shape.json").write_text('{"type": "array"}')
    connected.push({"shape": {"type": "object"}, "few": 3, "dashes": "--be_brief x"})
    run(connected, f"%%sgl_generate {line}\nx")
    assert sampling(server) == expected


def test_logprobs_and_lora(connected: InteractiveShell, server: ScriptedServer) -> None:
    run(connected, "%%sgl_generate --logprobs 3 --lora poet\nx")
    asked = sent(server)
    assert (asked["return_logprob"], asked["top_logprobs_num"], asked["lora_path"]) == (True, 3, "poet")
    run(connected, "%%sgl_generate --logprobs 0\nx")
    assert "top_logprobs_num" not in sent(server)


def test_several_answers(
    connected: InteractiveShell, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [
        {**answer(text, [1], id=f"r{index}"), "index": index} for index, text in enumerate(["one", "two"])
    ]
    server.on("/generate", stream(*parts))
    run(connected, "%%sgl_generate --n 2 -o both\nCount:")
    assert sampling(server) == {"n": 2}
    both = connected.user_ns["both"]
    assert [each.text for each in both] == ["one", "two"]
    assert (type(both), connected.user_ns["_sgl"]) == (Generations, both)
    shown = capsys.readouterr().out
    assert "[1 of 2]\none\n" in shown
    assert "[2 of 2]\ntwo\n" in shown


def test_without_streaming(
    connected: InteractiveShell, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run(connected, "%%sgl_generate --no-stream -o story\nTell me:")
    assert "stream" not in sent(server)
    assert connected.user_ns["story"].text == TEXT
    assert TEXT in capsys.readouterr().out
    aborted = {"type": "abort", "message": "by the admin"}
    server.on("/generate", Reply(json=answer("Once", finish_reason=aborted)))
    assert isinstance(
        failure(connected, "%%sgl_generate --no-stream -o story\nx"), errors.GenerationAbortedError
    )
    assert connected.user_ns["story"].text == "Once"


def test_views(
    connected: InteractiveShell, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    for line in ("--view none", "--view none --no-stream"):
        run(connected, f"%%sgl_generate {line} -o story\nx")
        assert capsys.readouterr().out == ""
        assert connected.user_ns.pop("story").text == TEXT
    for line in ("--plain", "--view plain", "--view markdown", ""):
        run(connected, f"%%sgl_generate {line}\nx")
        assert capsys.readouterr().out.startswith(TEXT)


def test_chat_of_one_message(connected: InteractiveShell, server: ScriptedServer) -> None:
    run(connected, "%%sgl_generate --chat\nHello")
    assert server.to("/tokenize")[-1].json["messages"] == [{"role": "user", "content": "Hello"}]
    assert sent(server)["input_ids"] == [1, 2, 3]
    connected.push({"manner": "Be brief.\nSay 'please'."})
    run(connected, "%%sgl_generate --system {manner}\nHello")
    assert server.to("/tokenize")[-1].json["messages"] == [
        {"role": "system", "content": "Be brief.\nSay 'please'."},
        {"role": "user", "content": "Hello"},
    ]
    connected.push({"rules": "---\nrules", "token": "--token"})
    run(connected, "%%sgl_generate --system {rules}\nHello")
    assert server.to("/tokenize")[-1].json["messages"][0]["content"] == "---\nrules"
    run(connected, "%%sgl_generate --system {token}\nHello")
    assert server.to("/tokenize")[-1].json["messages"][0]["content"] == "--token"
    run(connected, "%%sgl_generate --chat --no-stream -o reply\nHello")
    assert connected.user_ns["reply"].text == TEXT


def test_templates(
    connected: InteractiveShell, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    connected.push({"word": "{cat}", "größe": 3})
    run(connected, "%%sgl_generate --template\n{{word}} {{ größe }} {word} {{a b}} {{{word}}}")
    assert sent(server)["text"] == "{cat} 3 {word} {{a b}} {{cat}}"
    asked = len(server.to("/generate"))
    error = usage_error(connected, "%%sgl_generate --template\n{{wort}} {{nothing}} {{wort}}", capsys)
    assert "wort, nothing" in error
    assert "Did you mean word instead of wort?" in error
    assert len(server.to("/generate")) == asked


@pytest.mark.parametrize("name", ["größe", unicodedata.normalize("NFD", "größe"), "नाम", "ชื่อ", "ﬁ", "名前"])
def test_every_name_of_a_variable_is_a_place(name: str) -> None:
    names: dict[str, Any] = {}
    exec(f"{name} = 'value'", names)
    assert fill_template(f"a {{{{{name}}}}} b {{{{ {name}\n}}}} {{{{1}}}} {{{{a-b}}}}", names) == (
        "a value b value {{1}} {{a-b}}"
    )
    with pytest.raises(UsageError, match="Undefined template variable"):
        fill_template(f"{{{{{name}}}}}", {})


def test_values_of_a_function_that_uses_a_magic(connected: InteractiveShell) -> None:
    run(connected, "def choose(where):\n    %sgl_use {where}\nchoose('main')")
    assert run(connected, "%config SglMagics.endpoint") == "main"


# Errors


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("%%sgl_generate --tempreature 1\nx", ["no option --tempreature", "--temperature?"]),
        ("%%sgl_generate --max_tokens 1\nx", ["no option --max-tokens", "--max-new-tokens?"]),
        ("%%sgl_generate --temp=1\nx", ["no option --temp.", "--template or --temperature?"]),
        ("%%sgl_generate --xyzzy 1\nx", ["no option --xyzzy", "%%sgl_generate? explains"]),
        ("%%sgl_generate hello\nx", ["takes no 'hello'", "stands below the line"]),
        ("%%sgl_generate --temperature hot\nx", ["invalid float value: 'hot'", "%%sgl_generate?"]),
        ("%%sgl_generate --stop --n 2\nx", ["expected at least one", "--option=VALUE"]),
        ("%%sgl_generate --view huge\nx", ["invalid choice: 'huge'", "markdown"]),
        ("%%sgl_generate -o 2nd\nx", ["'2nd' is not the name of a variable"]),
        ("%%sgl_generate -o class\nx", ["'class' is not the name of a variable"]),
        ('%%sgl_generate --system "open\nx', ['A quote " is not closed']),
        ("%%sgl_generate --endpoint mian\nx", ["no server 'mian'", "Did you mean main?"]),
        ("%%sgl_generate --endpoint text\nx", ["no server 'text'; the variable text is a str"]),
        ("%%sgl_generate --json-schema shap\nx", ["no variable and no file 'shap'", "shape?"]),
        ("%%sgl_generate --json-schema number\nx", ["number is a int, not a schema"]),
        ("%%sgl_generate --json-schema bad.json\nx", ["bad.json is not JSON"]),
        ("%%sgl_chat --conversation text\nx", ["text is a str, not a conversation"]),
        ("%sgl_use mian", ["no server 'mian'", "Did you mean main?"]),
        ("%sgl_connect", ["URL", "%sgl_connect? explains"]),
        ("%sgl_info --liv", ["--live?"]),
        ("%sgl_logs", ["The log of main is not here"]),
        ("%sgl_stop main", ["only connected to"]),
        ("%sgl_launch --port many", ["invalid int value: 'many'"]),
        ("%sgl_launch --context-length long", ["--context-length takes a whole number, not 'long'"]),
        ("%sgl_launch --tp-size", ["--tp-size has no value"]),
        ("%sgl_launch --disable-radix-cache=1", ["takes no value"]),
        ("%sgl_launch one --model-path two", ["Two models are named: one and two"]),
        ("%sgl_launch --reuse", ["no option --reuse", "Runtime(reuse=…)"]),
        ("%sgl_launch --progress", ["no option --progress"]),
        ("%sgl_launch --env X", ["no option --env"]),
        (r'%%sgl_generate --stop "say \"hi\""' + "\nx", ["backslash does not escape a quote", "{name}"]),
        (r"%%sgl_generate --stop=say\'hi'" + "\nx", ["backslash does not escape a quote"]),
        ("%%sgl_generate --stop=--\nx", ["--stop=-- is no value"]),
        ("%%sgl_generate -- foo\nx", ["-- is no value", "%%sgl_generate? explains"]),
        ("%%sgl_generate --system {text} {dashes}\nx", ["no option --token"]),
    ],
)
def test_misuse(
    connected: InteractiveShell,
    server: ScriptedServer,
    capsys: pytest.CaptureFixture[str],
    code: str,
    words: list[str],
) -> None:
    Path("bad.json").write_text("{")
    connected.push({"text": "x", "shape": {}, "number": 3, "dashes": "--token"})
    error = usage_error(connected, code, capsys)
    print(error)
    assert len(error.splitlines()) == 2
    assert [word for word in words if word not in error] == []
    assert server.to("/generate") == []


def test_errors_in_two_lines(
    connected: InteractiveShell, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("/generate", Reply(json={"error": {"message": "too \x1b[31mlong"}}, status=400))
    capsys.readouterr()
    assert isinstance(failure(connected, "%%sgl_generate\nx"), errors.BadRequestError)
    short = capsys.readouterr().out
    print(short)
    first, second = short.splitlines()
    assert first.startswith("BadRequestError: ")
    assert "too ␛[31mlong" in first
    assert second == errors.BadRequestError.default_hint
    assert isinstance(failure(connected, "%%sgl_generate --top-p 3\nx"), errors.ArgumentValueError)
    assert "top_p must be in (0, 1], got 3.0." in capsys.readouterr().out
    run(connected, "%config SglMagics.short_errors = False")
    failure(connected, "%%sgl_generate\nx")
    assert "Traceback" in capsys.readouterr().out


def test_a_stream_that_breaks_leaves_its_text(connected: InteractiveShell, server: ScriptedServer) -> None:
    server.on("/generate", stream(*cumulative(WORDS)[:2], CUT))
    assert isinstance(failure(connected, "%%sgl_generate -o story\nx"), errors.StreamError)
    assert connected.user_ns["story"].text == "Once upon"
    assert isinstance(failure(connected, "%%sgl_chat\nTell me"), errors.StreamError)
    assert connected.user_ns["conversation"].messages[-1] == {"role": "assistant", "content": "Once upon"}


@pytest.mark.parametrize("view", ["plain", "none"])
def test_interrupt_keeps_what_had_come(
    view: str,
    connected: InteractiveShell,
    server: ScriptedServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wait = Wait()
    server.on("/generate", lambda asked: stream(*cumulative(WORDS, asked.json["rid"])[:2], wait))
    started: list[Any] = []

    def show(stream: Any, **options: Any) -> None:
        started.append(stream)
        show_stream(stream, **options)

    def interrupt() -> None:
        fake_engine.await_true(lambda: started and started[0].text == "Once upon")
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(generation_magics, "show_stream", show)
    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    capsys.readouterr()
    assert isinstance(failure(connected, f"%%sgl_generate -o story --view {view}\nx"), KeyboardInterrupt)
    interrupter.join()
    shown = capsys.readouterr().out
    print(shown)
    assert shown.endswith("KeyboardInterrupt: what had come is in story\n")
    assert "Traceback" not in shown
    assert connected.user_ns["story"].text == "Once upon"
    assert connected.user_ns["story"].finish_reason is None
    server.wait_for("/abort_request")
    assert server.to("/abort_request")[0].json == {"rid": sent(server)["rid"]}


# %%sgl_chat


def test_a_conversation_goes_on(connected: InteractiveShell, server: ScriptedServer) -> None:
    run(connected, "%%sgl_chat --system 'Be brief.' --max-new-tokens 9 -o first\nTell me")
    run(connected, "%%sgl_chat --no-stream\nAnd then?")
    assert [message["content"] for message in server.to("/tokenize")[-1].json["messages"]] == [
        "Be brief.", "Tell me", TEXT, "And then?"]  # fmt: skip
    talk = connected.user_ns["conversation"]
    assert isinstance(talk, Conversation)
    assert talk.answers[0] is connected.user_ns["first"]
    assert len(talk) == 2
    assert repr(talk).splitlines() == [
        "Conversation · 2 turns",
        "system: Be brief.", "user: Tell me", f"assistant: {TEXT}", "user: And then?", f"assistant: {TEXT}",
    ]  # fmt: skip
    assert run(connected, "conversation.undo()") == "And then?"
    run(connected, "%%sgl_chat --conversation other\nHello")
    assert (len(talk), len(connected.user_ns["other"])) == (1, 1)
    run(connected, "%%sgl_chat --reset\nFrom the start")
    anew = connected.user_ns["conversation"]
    assert [message["role"] for message in anew.messages] == ["system", "user", "assistant"]


def test_a_conversation_is_not_harmed_by_a_failure(
    connected: InteractiveShell, server: ScriptedServer
) -> None:
    run(connected, "%%sgl_chat\nTell me")
    server.on("/generate", Reply(json={"error": {"message": "busy"}}, status=503))
    failure(connected, "%%sgl_chat --reset\nAnd then?")
    failure(connected, "%%sgl_chat --conversation other\nHello")
    assert len(connected.user_ns["conversation"]) == 1
    assert "other" not in connected.user_ns


# %config


def test_configuration(
    connected: InteractiveShell, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run(connected, "%config SglMagics.sampling = {'temperature': 0, 'max_new_tokens': 50}")
    run(connected, "%%sgl_generate --max-new-tokens 3\nx")
    assert sampling(server) == {"temperature": 0, "max_new_tokens": 3}
    capsys.readouterr()
    run(connected, "%config SglMagics.view = 'none'")
    run(connected, "%%sgl_generate\nx")
    assert capsys.readouterr().out == ""
    run(connected, "%config SglMagics")
    shown = capsys.readouterr().out
    for name in ("endpoint", "sampling", "view", "draws_per_second", "short_errors"):
        assert f"SglMagics.{name}" in shown


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("sampling = {'temprature': 0}", "Did you mean 'temperature'?"),
        ("sampling = {'top_p': 2}", "top_p must be in"),
        ("view = 'huge'", "markdown"),
        ("draws_per_second = 100", "20"),
    ],
)
def test_wrong_configuration(
    connected: InteractiveShell, caplog: pytest.LogCaptureFixture, value: str, words: str
) -> None:
    name = value.partition(" ")[0]
    before = run(connected, f"%config SglMagics.{name}")
    run(connected, f"%config SglMagics.{value}")
    assert words in caplog.text
    assert run(connected, f"%config SglMagics.{name}") == before


# Which server


def test_without_a_server(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    error = usage_error(shell, "%%sgl_generate\nx", capsys)
    assert "%sgl_launch" in error
    assert "%sgl_connect" in error
    run(shell, "%sgl_servers")
    assert "%sgl_connect URL connects" in capsys.readouterr().out


def test_a_variable_is_a_server(
    shell: InteractiveShell, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with RuntimeEndpoint(server.url) as endpoint:
        shell.push({"mine": endpoint, "same": endpoint, "_hidden": RuntimeEndpoint(server.url)})
        run(shell, "%%sgl_generate\nx")  # the only one
        run(shell, "%%sgl_generate --endpoint same\nx")
        assert len(server.to("/generate")) == 2


def test_one_of_several(
    connected: InteractiveShell, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with ScriptedServer() as other:
        other.on("/generate", _story)
        run(connected, f"%sgl_connect {other.url} -o second")
        error = usage_error(connected, "%%sgl_generate\nx", capsys)
        assert "main, scripted-model" in error
        assert "%sgl_use" in error
        run(connected, "%%sgl_generate --endpoint scripted-model\nx")
        run(connected, "%%sgl_generate --endpoint second\nx")
        run(connected, f"%%sgl_generate --endpoint {other.url}\nx")
        assert len(other.to("/generate")) == 3
        run(connected, "%sgl_use second")
        run(connected, "%%sgl_generate\nx")
        assert len(other.to("/generate")) == 4
        run(connected, "%sgl_use")
        assert f"Cells ask second ({other.url})." in capsys.readouterr().out
        run(connected, "%%sgl_generate --endpoint main\nx")
        assert len(server.to("/generate")) == 1
        run(connected, "%sgl_servers")
        shown = capsys.readouterr().out
        assert "2 servers" in shown
        assert server.url in shown
        assert other.url in shown


def test_connecting_again_keeps_the_name(connected: InteractiveShell, server: ScriptedServer) -> None:
    run(connected, f"%sgl_connect {server.url}")
    run(connected, f"%sgl_connect {server.url}/")
    assert list(known_servers._named) == ["main"]


def test_servers_outlive_a_reload(connected: InteractiveShell, server: ScriptedServer) -> None:
    run(connected, "%reload_ext nbruntime")
    run(connected, "%%sgl_generate\nx")
    assert len(server.to("/generate")) == 1


def test_info_and_flush(
    connected: InteractiveShell, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    run(connected, "%sgl_info")
    shown = capsys.readouterr().out
    assert "scripted-model" in shown
    assert "0.5.23" in shown
    run(connected, "%sgl_flush main")
    assert len(server.to("/flush_cache")) == 1
    assert "The KV cache of main is empty." in capsys.readouterr().out


def test_the_info_in_a_notebook_masks_keys(server: ScriptedServer) -> None:
    from nbruntime.notebook.magics.known_servers import KnownServer
    from nbruntime.notebook.magics.server_cards import info_card

    server.on("/server_info", Reply(json={"api_key": "sk-1234", "tp_size": 2, "version": "1"}))
    with RuntimeEndpoint(server.url) as endpoint:
        card = info_card(KnownServer("main", endpoint), endpoint.get_server_info())
    assert "sk-1234" not in card.html()
    root = ElementTree.fromstring(card.html())
    assert len(root.findall("details")) == 1, "it is a dozen lines high while it is folded"
    assert root.findall("details/details")
    assert "tensor 2" in card.text()


# Keys


def test_a_key_never_stands_on_the_line(
    shell: InteractiveShell,
    server: ScriptedServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.api_key = "sk-1234"
    for line in ("--api-key sk-1234", "--api_key=sk-1234", "--token sk-1234"):
        for start in (f"%sgl_connect {server.url}", "%sgl_launch"):
            error = usage_error(shell, f"{start} {line}", capsys)
            assert "--api-key-env VARIABLE" in error
            assert "sk-1234" not in error
    error = usage_error(shell, f"%sgl_connect {server.url} --api-key-env sk-1234", capsys)
    assert "sk-1234" not in error
    assert isinstance(failure(shell, f"%sgl_connect {server.url}"), errors.AuthenticationError)
    monkeypatch.setenv("MY_KEY", "sk-1234")
    run(shell, f"%sgl_connect {server.url} --api-key-env MY_KEY -o endpoint")
    run(shell, "%%sgl_generate\nx")
    run(shell, "%sgl_servers")
    run(shell, "%sgl_info")
    shown = capsys.readouterr()
    assert "sk-1234" not in shown.out + shown.err


# Servers of our own


def test_launch_use_log_and_stop(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    launch = "%sgl_launch --engine fake --name first --say hello --children 1 -o runtime"
    run(shell, launch)
    runtime = shell.user_ns["runtime"]
    assert isinstance(runtime, Runtime)
    assert f"first is ready ({runtime.url})." in capsys.readouterr().out
    run(shell, launch)  # again: the same server
    assert shell.user_ns["runtime"].pid == runtime.pid
    run(shell, "%%sgl_generate\nx")
    assert "Hello world, grüße!" in capsys.readouterr().out
    run(shell, "%sgl_info")
    assert "--say=hello" not in capsys.readouterr().err
    run(shell, "%sgl_logs -n 100")
    assert "hello" in capsys.readouterr().out.splitlines()
    run(shell, "%sgl_logs -n 1")
    assert "hello" not in capsys.readouterr().out.splitlines()
    for none in (0, -3):
        run(shell, f"%sgl_logs -n {none}")
        assert capsys.readouterr().out == ""
    run(shell, "%sgl_servers")
    assert "this kernel" in capsys.readouterr().out
    error = failure(shell, "%sgl_launch --engine fake --name first --say other")
    assert "first" in str(error)
    run(shell, "%sgl_use first")
    run(shell, "%sgl_stop first")
    assert runtime.phase == "stopped"
    assert "Ended: first." in capsys.readouterr().out
    run(shell, "%sgl_stop runtime")
    assert "Ended: none." in capsys.readouterr().out
    run(shell, "%sgl_logs runtime -n 100")  # the variable is still there
    assert "hello" in capsys.readouterr().out.splitlines()
    assert isinstance(failure(shell, "%%sgl_generate\nx"), errors.ServerConnectionError)
    assert "%sgl_logs runtime" in capsys.readouterr().out


def test_stop_all(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, "%sgl_launch --engine fake --name one")
    run(shell, "%sgl_launch --engine fake --name two --say x")
    capsys.readouterr()
    run(shell, "%sgl_stop orphans")
    assert "none" in capsys.readouterr().out
    run(shell, "%sgl_stop all")
    shown = capsys.readouterr().out
    assert "one" in shown
    assert "two" in shown
    assert known_servers._named == {}
    assert isinstance(failure(shell, "%sgl_stop one"), errors.ArgumentValueError)


def test_stop_by_the_name_of_a_variable(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, "%sgl_launch --engine fake --name one -o runtime")
    run(shell, "%sgl_stop runtime")
    assert "Ended: one." in capsys.readouterr().out
    assert shell.user_ns["runtime"].phase == "stopped"


def test_a_server_that_has_ended_is_in_nobodys_way(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Runtime(engine="fake", name="same", port=0)
    before.shutdown()
    with Runtime(engine="fake", name="same", port=before.port) as runtime:
        shell.push({"before": before, "runtime": runtime})
        run(shell, "%%sgl_generate\nx")
        run(shell, "%%sgl_generate --endpoint same\nx")
        run(shell, f"%%sgl_generate --endpoint {runtime.url}\nx")
        capsys.readouterr()
        run(shell, "%sgl_stop before")
        assert "Ended: none." in capsys.readouterr().out
        assert runtime.phase == "ready"
        del shell.user_ns["runtime"]  # as if it were one of another kernel
        run(shell, "%sgl_servers")
        shown = capsys.readouterr().out
        assert "2 servers" in shown
        assert "stopped" in shown
        assert "ready" in shown
        shell.push({"runtime": runtime})
        run(shell, "%sgl_stop same")
        assert "Ended: same." in capsys.readouterr().out
        assert runtime.phase == "stopped"


def test_to_connect_ends_no_server_of_the_name(
    shell: InteractiveShell, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run(shell, "%sgl_launch --engine fake --name one")
    runtime = known_servers._named["one"]
    assert isinstance(runtime, Runtime)
    run(shell, f"%sgl_connect {runtime.url}")
    run(shell, f"%sgl_connect {runtime.url} --name one")
    assert known_servers._named == {"one": runtime}
    error = usage_error(shell, f"%sgl_connect {server.url} --name one", capsys)
    assert "%sgl_stop one" in error
    assert (runtime.phase, known_servers._named["one"]) == ("ready", runtime)
    runtime.shutdown()
    run(shell, f"%sgl_connect {server.url} --name one")
    assert isinstance(known_servers._named["one"], RuntimeEndpoint)


def test_a_server_of_another_kernel(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    with Runtime(engine="fake", name="elsewhere") as runtime:
        assert "%sgl_use elsewhere" in completions(shell, "%sgl_use e")
        assert "No server is known" in usage_error(shell, "%%sgl_generate\nx", capsys)
        run(shell, "%sgl_use elsewhere")
        run(shell, "%%sgl_generate\nx")
        assert "Hello world" in capsys.readouterr().out
        run(shell, "%sgl_stop elsewhere")
        assert "Ended: elsewhere." in capsys.readouterr().out
        assert runtime.phase in known_servers.ENDED_PHASES
    assert run(shell, "%config SglMagics.endpoint") == ""
    assert known_servers._named == {}


def test_following_a_log(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, "%sgl_launch --engine fake --name one --say hello -o runtime")
    stopper = threading.Timer(0.5, shell.user_ns["runtime"].shutdown)
    stopper.start()
    run(shell, "%sgl_logs --follow")  # ends with the server
    stopper.join()
    assert "hello" in capsys.readouterr().out


def test_following_a_log_shows_every_line_once(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(shell, "%sgl_launch --engine fake --name one -o runtime")
    runtime = shell.user_ns["runtime"]
    (record,) = [each for each in registry.records() if each.name == "one"]
    log = Path(record.directory, LOG)

    looks, look = threading.Semaphore(0), runtime.logs_since

    def logs_since(*position: int) -> tuple[str, int]:
        seen: tuple[str, int] = look(*position)
        looks.release()
        return seen

    def write() -> None:
        try:
            for text in ("one\ntw", "o\nbar 1%\rbar 2%", "\rbar 3%\nthree\n", "x\nx\nx\nthe rest"):
                assert looks.acquire(timeout=20), "what was written before has not been looked at"
                with log.open("a") as file:
                    file.write(text)
        finally:
            runtime.shutdown()

    monkeypatch.setattr(runtime, "logs_since", logs_since)
    capsys.readouterr()
    writer = threading.Thread(target=write)
    writer.start()
    run(shell, "%sgl_logs -n 0 --follow")
    writer.join()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:7] == ["one", "two", "bar 3%", "three", "x", "x", "x"]
    assert lines[7].startswith("the rest")


def test_a_launch_that_fails(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    error = failure(shell, "%sgl_launch --engine fake --fail 'no such model'")
    assert isinstance(error, errors.LaunchError)
    shown = capsys.readouterr().out
    assert "no such model" in shown
    assert "Traceback" not in shown
    assert isinstance(failure(shell, "%sgl_launch --engine embedded --tp-sise 2"), errors.ArgumentTypeError)
    assert "Did you mean 'tp_size'?" in capsys.readouterr().out


def test_the_model_by_its_name_in_sglang(shell: InteractiveShell) -> None:
    run(shell, "%sgl_launch --engine fake --model-path some/model -o runtime")
    assert shell.user_ns["runtime"]._model == "some/model"


def test_server_arguments_reach_the_server(shell: InteractiveShell) -> None:
    run(shell, "%sgl_launch --engine fake --say 'a b' --children 0 --ignore-sigterm --port 0 -o runtime")
    argv = shell.user_ns["runtime"].endpoint.get_server_info()["argv"]
    print(argv)
    assert {"--say=a b", "--children=0", "--ignore-sigterm"} <= set(argv)


# Help and completion


@pytest.mark.parametrize("name", ["%%sgl_generate", "%%sgl_chat", "%sgl_launch", "%sgl_connect", "%sgl_stop"])
def test_magics_explain_themselves(name: str, shell: InteractiveShell) -> None:
    info = shell.object_inspect(name)
    assert info["found"]
    assert name in info["docstring"]
    assert "Examples::" in info["docstring"]
    assert "--" in info["docstring"] or name == "%sgl_stop"


def test_completion(connected: InteractiveShell) -> None:
    connected.push({"shape": {"type": "object"}, "talk": Conversation(), "text": "x"})
    Path("shape.json").write_text("{}")
    Path("sub").mkdir()
    Path("sub/deep.json").write_text("{}")
    expected = {
        "%%sgl_generate --max": ["--max-new-tokens"],
        "%%sgl_generate --temperature 0 --sy": ["--system"],
        "%%sgl_generate --endpoint m": ["main"],
        "%%sgl_generate --endpoint=m": ["main"],
        "%%sgl_generate --view ": ["markdown", "none", "plain"],
        "%%sgl_generate --json-schema s": ["shape", "shape.json"],
        "%%sgl_generate --json-schema sub/": ["sub/deep.json"],
        "%%sgl_generate -o sh": ["shape"],
        "%%sgl_chat --conversation ": ["talk"],
        "%sgl_use ": ["main"],
        "%sgl_stop ": ["all", "main", "orphans"],
        "%sgl_info m": ["main"],
        "server = %sgl_use m": ["main"],
        "x = 1\n%sgl_use m": ["main"],
        "%sgl_launch --tp-s": ["--tp-size"],
        "%sgl_launch --engine s": ["sglang"],
    }
    for text, choices in expected.items():
        offered = [whole.replace("=", " ").split(" ")[-1] for whole in completions(connected, text)]
        assert sorted(offered) == choices, text
    assert "%%sgl_generate --temperature --top-p" not in completions(
        connected, "%%sgl_generate --temperature "
    )
    everything = completions(connected, "%%sgl_generate ")
    assert "%%sgl_generate --temperature" in everything
    assert "%sgl_launch --api-key" not in completions(connected, "%sgl_launch --api")


def test_completion_leaves_other_lines_alone(connected: InteractiveShell) -> None:
    connected.push({"sgl_value": 1})
    assert completions(connected, "sgl_v") == ["sgl_value"]
    assert "%timeit" in completions(connected, "%timei")


def test_a_conversation_shows_itself() -> None:
    talk = Conversation("Be <brief>.")
    talk.add("<script>?", Generation("**No** <script>"))
    bundle = talk._repr_mimebundle_()
    assert "<script>" not in bundle["text/html"]
    assert "<strong>No</strong>" in bundle["text/html"]
    assert bundle["text/plain"].startswith("Conversation · 1 turn\nsystem: Be <brief>.")
    assert json.dumps(talk.messages)
    assert Conversation().undo() is None


# In a kernel


@pytest.fixture
def kernel(tmp_path: Path, server: ScriptedServer) -> Iterator[Kernel]:
    started = Kernel(tmp_path)
    try:
        started.connect(server.url)
        yield started
    finally:
        started.close()


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
def test_kernel_interrupt_keeps_what_had_come(kernel: Kernel, server: ScriptedServer) -> None:
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
    assert ran["traceback"] == ["KeyboardInterrupt: what had come is in story"]
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
