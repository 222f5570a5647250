"""The text of variables in templates, and on the lines of magics."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from pydantic import BaseModel
from support.ipython_shell import run
from support.magics import sampling, sent, usage_error
from support.scripted_server import Reply, ScriptedServer, Wait, cumulative, stream

from nbruntime import RuntimeEndpoint
from nbruntime.chat.conversation import Conversation
from nbruntime.generation import Generation, Generations
from nbruntime.notebook.magics.texts import text_of

TWO = Generations([Generation("one"), Generation("two")])


class Point(BaseModel):
    x: int


def conversation() -> Conversation:
    talk = Conversation("Be brief.")
    talk.add("Hello", Generation("Hi!"))
    return talk


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is", "as it is"),
        (3, "3"),
        (0.5, "0.5"),
        (True, "True"),
        (decimal.Decimal("1.10"), "1.10"),
        (Path("a/b"), "a/b"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (Generation("one"), "one"),
        (TWO, "one\ntwo"),
        ([TWO, Generation("three")], "one\ntwo\nthree"),
        (("a", 1), "a\n1"),
        ([], ""),
        (conversation(), "system: Be brief.\nuser: Hello\nassistant: Hi!"),
        ({"text": "one", "meta_info": {"id": "r"}}, "one"),
        ([{"text": "one", "meta_info": {}}, {"text": "two", "meta_info": {}}], "one\ntwo"),
        ({"größe": [1, None]}, '{\n  "größe": [\n    1,\n    null\n  ]\n}'),
        (Point(x=1), '{\n  "x": 1\n}'),
        (np.array([[1, 2], [3, 4]]), "[[1, 2], [3, 4]]"),
        (np.arange(3000), str(list(range(3000)))),
        (np.datetime64("2026-01-02"), "2026-01-02"),
    ],
)
def test_text_of_a_value(value: Any, text: str) -> None:
    assert text_of(value, "name") == text


def test_a_table_of_pandas_gives_all_rows() -> None:
    class Table:
        """As much of a DataFrame as is looked at."""

        def to_string(self) -> str:
            return "   a\n0  1\n1  2"

        def __str__(self) -> str:
            return "   a\n.. .."

    Table.__module__ = "pandas.core.frame"
    assert text_of(Table(), "table") == "   a\n0  1\n1  2"


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (None, "thing is None"),
        (b"bytes", "thing is a bytes"),
        (len, "thing is a builtin_function_or_method"),
        (Generation, "thing is a type"),
        (json, "thing is a module"),
        (object(), "thing is a object"),
        (iter([1]), "thing is a list_iterator"),
        (["a", None], "thing[1] is None"),
        ({"a": json}, "thing is a dict that JSON cannot hold"),
    ],
)
def test_what_has_no_text_is_named(value: Any, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        text_of(value, "thing")
    assert str(caught.value).startswith(named)


def held_back(wait: Wait) -> Reply:
    """Stream two words, the second when the test says go."""
    first, second = cumulative(["one ", "two"])
    return stream(first, wait, second)


def test_a_stream_has_a_text_when_it_has_ended(server: ScriptedServer) -> None:
    wait = Wait()
    server.on("/generate", held_back(wait))
    with RuntimeEndpoint(server.url) as endpoint, endpoint.stream("Count:") as running:
        next(running)
        with pytest.raises(UsageError, match=r"story is a stream .*\nWait for it: story.result\(\)"):
            text_of(running, "story")
        wait.go.set()
        running.result()
    assert text_of(running, "story") == "one two"


async def test_an_asynchronous_stream_is_awaited_first() -> None:
    from nbruntime import AsyncRuntimeEndpoint

    wait = Wait()
    with ScriptedServer() as server:
        server.on("/generate", held_back(wait))
        async with AsyncRuntimeEndpoint(server.url) as client:
            running = await client.stream("Count:")
            with pytest.raises(UsageError, match=r"await story.result\(\)"):
                text_of(running, "story")
            wait.go.set()
            await running.result()
            assert text_of(running, "story") == "one two"


def test_a_program_gives_its_whole_text() -> None:
    import sglang

    @sglang.function
    def count(s: Any) -> None:
        s += "one two"

    with ScriptedServer() as server, RuntimeEndpoint(server.url) as endpoint:
        state = count.run(backend=endpoint)
        assert text_of(state, "state") == "one two"


def test_every_magic_fills_in_texts(
    connected: InteractiveShell, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = {"type": "object"}
    connected.push({"both": TWO, "talk": conversation(), "os": SimpleNamespace, "shape": shape})
    run(connected, "%%sgl_generate --template\n{{both}}:{{talk}}")
    assert sent(server)["text"] == f"one\ntwo:{conversation()}"
    run(connected, "%%sgl_chat --system {both} --template\n{{both}}!")
    assert [each["content"] for each in server.to("/tokenize")[-1].json["messages"]] == [
        "one\ntwo",
        "one\ntwo!",
    ]
    run(connected, "%%sgl_generate --stop $both --json-schema {shape}\nx")
    assert sampling(server)["stop"] == ["one\ntwo"]
    assert json.loads(sampling(server)["json_schema"]) == shape
    asked = len(server.to("/generate"))
    for line in ("--template\n{{os}}", "--system {os}\nx", "--stop $os\nx"):
        assert "os is a type, which has no text" in usage_error(connected, f"%%sgl_generate {line}", capsys)
    assert len(server.to("/generate")) == asked
