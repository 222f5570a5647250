"""A scripted answer for the tests of the magics, and what a cell sent and printed."""

from __future__ import annotations

from typing import Any

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from nbruntime.notebook.magics.base import kept_by
from support.ipython_shell import failure
from support.scripted_server import Asked, Reply, ScriptedServer, answer, cumulative, stream

WORDS = ["Once", " upon", " a", " time"]
TEXT = "".join(WORDS)


def story(asked: Asked) -> Reply:
    if not asked.json.get("stream"):
        return Reply(json=answer(TEXT, id=asked.json["rid"]))
    return stream(*cumulative(WORDS, asked.json["rid"]))


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


def named_servers(shell: InteractiveShell) -> dict[str, Any]:
    """The servers of `%sgl_launch` and `%sgl_connect` in a shell."""
    return kept_by(shell)["servers"]
