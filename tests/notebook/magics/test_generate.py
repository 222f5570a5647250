"""``%%sgl_generate`` in a plain IPython shell, against a scripted server."""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from support.ipython_shell import failure, run
from support.magics import TEXT, WORDS, sampling, sent, usage_error
from support.scripted_server import Reply, ScriptedServer, Wait, answer, cumulative, stream

from nbruntime import errors
from nbruntime.generation import Generation, Generations
from nbruntime.notebook.magics.prompts import fill_template


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


def test_terminal_escapes_control_characters_of_an_answer(
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


def test_view_options(
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
def test_every_variable_name_can_be_used_in_a_template(name: str) -> None:
    names: dict[str, Any] = {}
    exec(f"{name} = 'value'", names)
    assert fill_template(f"a {{{{{name}}}}} b {{{{ {name}\n}}}} {{{{1}}}} {{{{a-b}}}}", names) == (
        "a value b value {{1}} {{a-b}}"
    )
    with pytest.raises(UsageError, match="Undefined template variable"):
        fill_template(f"{{{{{name}}}}}", {})


def test_magic_in_a_function_sees_local_variables(connected: InteractiveShell) -> None:
    run(connected, "def choose(where):\n    %sgl_use {where}\nchoose('main')")
    assert run(connected, "%config SglMagics.endpoint") == "main"
