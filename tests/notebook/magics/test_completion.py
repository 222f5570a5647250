"""Help and Tab completion of the magics."""

from __future__ import annotations

from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from support.ipython_shell import completions, run

from nbruntime.chat.conversation import Conversation

pytestmark = pytest.mark.server


@pytest.mark.parametrize("name", ["%%sgl_generate", "%%sgl_chat", "%sgl_launch", "%sgl_connect", "%sgl_stop"])
def test_magics_explain_themselves(name: str, shell: InteractiveShell) -> None:
    info = shell.object_inspect(name)
    assert info["found"]
    assert name in info["docstring"]
    assert "Examples::" in info["docstring"]
    assert "--" in info["docstring"] or name == "%sgl_stop"


@pytest.mark.parametrize("option", ["-h", "--help", "--name x --help"])
def test_every_magic_has_help(
    option: str, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    magics = [f"%{name}" for name in shell.magics_manager.magics["line"] if name.startswith("sgl_")]
    assert len(magics) == 11
    for code in [*magics, "%%sgl_generate", "%%sgl_chat"]:
        capsys.readouterr()
        run(shell, f"{code} {option}" + ("\nHello" if code.startswith("%%") else ""))
        shown = capsys.readouterr().out
        assert shown.split()[0].lstrip("%") == code.lstrip("%")
        assert len(shown.splitlines()) > 2


def test_completion(connected: InteractiveShell) -> None:
    connected.push({"shape": {"type": "object"}, "talk": Conversation(), "text": "x"})
    Path("shape.json").write_text("{}")
    Path("sub").mkdir()
    Path("sub/deep.json").write_text("{}")
    expected = {
        "%sgl_use --h": ["--help"],
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
        "%sgl_stop ": ["all", "everywhere", "main", "orphans"],
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
    assert completions(connected, "%sgl_launch --api-key ") == ["%sgl_launch --api-key auto"]
    assert "%sgl_connect --api-key" not in completions(connected, "%sgl_connect --api")


def test_completion_leaves_other_lines_alone(connected: InteractiveShell) -> None:
    connected.push({"sgl_value": 1})
    assert completions(connected, "sgl_v") == ["sgl_value"]
    assert "%timeit" in completions(connected, "%timei")
