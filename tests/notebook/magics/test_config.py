"""``%config SglMagics``."""

from __future__ import annotations

import pytest
from IPython.core.interactiveshell import InteractiveShell
from support.ipython_shell import run
from support.magics import sampling
from support.scripted_server import ScriptedServer


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
