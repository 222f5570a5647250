"""From a model's name or path to its folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.tiny_models import LAYERS, Reports, model_folder, tiny_gguf

from nbruntime.embedded.models import DEFAULT_MODEL, DEFAULT_REPO, resolve_model
from nbruntime.embedded.models.cache import cache_folder
from nbruntime.embedded.models.folder import missing_parts
from nbruntime.errors import ModelNotFoundError


def test_gguf_file_is_converted_once_for_each_content(tmp_path: Path) -> None:
    source = tmp_path / "mine.gguf"
    tiny_gguf(source)
    first, again, changed = Reports(), Reports(), Reports()
    model = resolve_model(str(source), report=first)
    assert (model.source, model.name, missing_parts(model.folder)) == ("gguf", str(source), [])
    assert first.phases == ["converting"]
    assert first[0] == ("converting", None, None, "")
    assert first[-1] == ("converting", 2 + 9 * LAYERS, 2 + 9 * LAYERS, "tensors")
    assert resolve_model(str(source), report=again) == model
    assert again == []
    os.utime(source, ns=(0, 0))
    assert resolve_model(str(source), report=changed).folder != model.folder
    assert changed.phases == ["converting"]


def test_path_that_does_not_exist_names_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_folder(tmp_path / "smollm2")
    for name in (tmp_path / "smolm2", tmp_path / "." / "smollm"):
        with pytest.raises(ModelNotFoundError, match=re.escape(f"Did you mean {folder}?")):
            resolve_model(str(name))
    with pytest.raises(ModelNotFoundError, match=re.escape(f"{tmp_path} exists")):
        resolve_model(str(tmp_path / "nowhere" / "model"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match=re.escape(f"Did you mean {folder}?")):
        resolve_model("./smollm")
    with pytest.raises(ModelNotFoundError, match="Did you mean smollm2"):
        resolve_model("smollm")


@pytest.mark.parametrize("name", [None, DEFAULT_MODEL, DEFAULT_REPO])
@pytest.mark.parametrize("place", ["own", "shared"])
def test_default_model_is_taken_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None, place: str
) -> None:
    monkeypatch.setattr("nbruntime.embedded.models.resolve.SHARED_MODELS", tmp_path / "shared")
    folder = model_folder((cache_folder() if place == "own" else tmp_path / "shared") / DEFAULT_MODEL)
    reports = Reports()
    model = resolve_model(name, report=reports)
    assert (model.folder, model.name, model.source, reports) == (folder, DEFAULT_MODEL, "cache", [])


def test_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NBRUNTIME_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "nbruntime" / "models"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "nbruntime" / "models"
    monkeypatch.setenv("NBRUNTIME_CACHE", "~/own")
    assert cache_folder() == tmp_path / "own" / "models"


def test_a_known_model_costs_no_heavy_import(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    code = f"""
        import sys, time
        start = time.perf_counter()
        from nbruntime.embedded.models import resolve_model
        resolve_model({str(folder)!r})
        print(time.perf_counter() - start)
        print([name for name in ("torch", "transformers", "huggingface_hub", "numpy") if name in sys.modules])
    """
    seconds, heavy = python(code).splitlines()
    print(f"a folder is resolved in {float(seconds) * 1000:.0f} ms, imports included")
    assert heavy == "[]"


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True, text=True
    ).stdout
