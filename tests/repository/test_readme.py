"""The README's blocks of Python run."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from nbruntime import Runtime
from nbruntime.launch.engines.resolve import resolve_engine

BLOCKS = re.findall(
    r"```python\n(.*?)```",
    (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8"),
    re.DOTALL,
)


@pytest.mark.model
def test_first_cell(capsys: pytest.CaptureFixture[str]) -> None:
    exec(BLOCKS[0], {})
    printed = capsys.readouterr().out
    print(printed)
    assert "Paris" in printed
    assert "Rome" in printed
    assert "'completion_tokens': 8" in printed


@pytest.mark.model
def test_connecting_to_a_server(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SGLANG_API_KEY", "a key")
    with Runtime(api_key="a key") as runtime:
        exec(BLOCKS[2].replace("http://127.0.0.1:30000", runtime.url), {})
    assert "SmolLM2-135M-Instruct" in capsys.readouterr().out


def test_arguments_for_a_gpu_server_are_known() -> None:
    call = ast.parse(BLOCKS[1]).body[0].value  # type: ignore[attr-defined]
    given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    engine = resolve_engine(given.pop("engine"), python=sys.executable)
    assert Path(given.pop("python")).name == "python"
    model_path = ast.literal_eval(call.args[0])
    accepted = engine.accept({"model_path": model_path, **given})
    assert accepted.values == {"model_path": model_path, "tp_size": 2, "mem_fraction_static": 0.85}
    assert accepted.ignored == ()
