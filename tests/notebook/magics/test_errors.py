"""Errors and interrupts of the magics."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from support import fake_engine
from support.ipython_shell import failure, run
from support.magics import WORDS, sent, usage_error
from support.scripted_server import CUT, Reply, ScriptedServer, Wait, cumulative, stream

from nbruntime import errors
from nbruntime.notebook.magics import generation_magics
from nbruntime.notebook.magics.presenting import show_stream


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("%%sgl_generate --tempreature 1\nx", ["no option --tempreature", "--temperature?"]),
        ("%%sgl_generate --max_tokens 1\nx", ["no option --max-tokens", "--max-new-tokens?"]),
        ("%%sgl_generate --temp=1\nx", ["no option --temp.", "--template or --temperature?"]),
        ("%%sgl_generate --xyzzy 1\nx", ["no option --xyzzy", "%%sgl_generate? explains"]),
        ("%%sgl_generate hello\nx", ["does not take 'hello'", "goes below the line"]),
        ("%%sgl_generate --temperature hot\nx", ["invalid float value: 'hot'", "%%sgl_generate?"]),
        ("%%sgl_generate --stop --n 2\nx", ["expected at least one", "--option=VALUE"]),
        ("%%sgl_generate --timeout soon\nx", ["invalid float value: 'soon'"]),
        ("%sgl_generate hello", ["The cell of %%sgl_generate goes below its line"]),
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
        ("%sgl_logs", ["The log of main is not available"]),
        ("%sgl_stop main", ["only connected to"]),
        ("%sgl_launch --port many", ["invalid int value: 'many'"]),
        ("%sgl_launch --context-length long", ["--context-length takes a whole number, not 'long'"]),
        ("%sgl_launch --tp-size", ["--tp-size needs a value"]),
        ("%sgl_launch --disable-radix-cache=1", ["takes no value"]),
        ("%sgl_launch one --model-path two", ["Two models were given: one and two"]),
        ("%sgl_launch --reuse", ["no option --reuse", "Runtime(reuse=…)"]),
        ("%sgl_launch --progress", ["no option --progress"]),
        ("%sgl_launch --env X", ["no option --env"]),
        (r'%%sgl_generate --stop "say \"hi\""' + "\nx", ["backslash does not escape a quote", "{name}"]),
        (r"%%sgl_generate --stop=say\'hi'" + "\nx", ["backslash does not escape a quote"]),
        ("%%sgl_generate --stop=--\nx", ["--stop=-- is not a value"]),
        ("%%sgl_generate -- foo\nx", ["-- is not a value", "%%sgl_generate? explains"]),
        ("%%sgl_generate --system {text} {dashes}\nx", ["no option --token"]),
    ],
)
def test_usage_errors(
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


def test_errors_have_two_lines(
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


def test_broken_stream_keeps_its_text(connected: InteractiveShell, server: ScriptedServer) -> None:
    server.on("/generate", stream(*cumulative(WORDS)[:2], CUT))
    assert isinstance(failure(connected, "%%sgl_generate -o story\nx"), errors.StreamError)
    assert connected.user_ns["story"].text == "Once upon"
    assert isinstance(failure(connected, "%%sgl_chat\nTell me"), errors.StreamError)
    assert connected.user_ns["conversation"].messages[-1] == {"role": "assistant", "content": "Once upon"}


@pytest.mark.parametrize("line", ["", "--plain", "--view none"])
def test_an_answer_that_takes_too_long_keeps_its_text(
    line: str, connected: InteractiveShell, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("/generate", lambda asked: stream(*cumulative(WORDS, asked.json["rid"])[:2], Wait()))
    capsys.readouterr()
    error = failure(connected, f"%%sgl_generate --timeout 3 -o story {line}\nx")
    assert isinstance(error, errors.StreamTimeoutError)
    assert "longer than its timeout of 3 s" in capsys.readouterr().out
    assert connected.user_ns["story"].text == "Once upon"
    assert server.wait_for("/abort_request")[0].json == {"rid": sent(server)["rid"]}
    server.on("/generate", Reply(raw=True, pieces=[Wait()]))
    error = failure(connected, "%%sgl_chat --no-stream --timeout 0.3\nx")
    assert isinstance(error, errors.ServerTimeoutError)


@pytest.mark.parametrize("view", ["plain", "none"])
def test_interrupt_keeps_the_text_received_so_far(
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
    assert shown.endswith("KeyboardInterrupt: the text received so far is in story\n")
    assert "Traceback" not in shown
    assert connected.user_ns["story"].text == "Once upon"
    assert connected.user_ns["story"].finish_reason is None
    server.wait_for("/abort_request")
    assert server.to("/abort_request")[0].json == {"rid": sent(server)["rid"]}
