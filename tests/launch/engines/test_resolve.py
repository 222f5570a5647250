"""Choosing the kind of server."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import pytest

from nbruntime.errors import ArgumentValueError, EngineNotFoundError
from nbruntime.launch.engines import probe as engine_probe
from nbruntime.launch.engines.resolve import resolve_engine


def test_embedded_server_is_chosen_without_sglang() -> None:
    """The frontend alone does not count, nor does a server without a device."""
    engine = resolve_engine()
    print(engine.name, "because", engine.why)
    assert engine.name == "embedded"
    assert engine.why.startswith("SGLang")


@pytest.fixture
def sglang_environment(tmp_path: Path) -> Path:
    """An interpreter whose SGLang and torch are stand-ins that tell what they were called with."""
    library = tmp_path / "library"
    files = {
        "sglang/__init__.py": "raise RuntimeError('must not be imported to look for it')",
        "sglang/launch_server.py": "",
        "sglang/srt/server_args.py": "class ServerArgs:\n    brand_new_option: int = 3\n",
        "torch/__init__.py": (
            "class cuda:\n"
            "    is_available = staticmethod(lambda: True)\n"
            "    get_device_name = staticmethod(lambda n: 'Stand-in H100')\n"
            "class backends: pass\n"
        ),
        "fastapi/__init__.py": "",
        "uvicorn/__init__.py": "",
        "zmq/__init__.py": "",
    }
    for name, text in files.items():
        file = library / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={library} exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    return python


@pytest.fixture
def device_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the probe take a file that is always there for a device."""
    source = Path(engine_probe.__file__).read_text().replace('"/dev/nvidia[0-9]*"', '"/dev/null"')
    copy = Path(os.environ["PYTEST_PROBE_COPY"])
    copy.write_text(source)
    monkeypatch.setattr(engine_probe, "__file__", str(copy))


@pytest.fixture(autouse=True)
def _probe_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_PROBE_COPY", str(tmp_path / "probe.py"))


@pytest.mark.usefixtures("device_file")
def test_auto_takes_sglang_where_it_has_a_device(sglang_environment: Path) -> None:
    engine = resolve_engine("auto", python=sglang_environment)
    assert (engine.name, engine.python) == ("sglang", str(sglang_environment))
    assert engine.why == "it is installed and has a Stand-in H100"
    assert engine.accept({"brand_new_option": 4}).values["brand_new_option"] == 4


def test_auto_takes_the_embedded_server_where_there_is_no_device(sglang_environment: Path) -> None:
    engine = resolve_engine("auto", python=sglang_environment)
    assert (engine.name, engine.python) == ("embedded", sys.executable)
    assert engine.why == f"SGLang is installed, but there is no GPU in {sglang_environment}"


@pytest.mark.parametrize(
    ("missing", "why"),
    [
        ("sglang/srt/server_args.py", "SGLang's server is not installed"),
        ("torch/__init__.py", "SGLang's server is not installed (torch is missing)"),
        ("fastapi/__init__.py", "SGLang's server is not installed (fastapi is missing)"),
    ],
)
@pytest.mark.usefixtures("device_file")
def test_sglang_without_its_server_packages_is_not_chosen(
    sglang_environment: Path, missing: str, why: str
) -> None:
    file = sglang_environment.with_name("library") / missing
    file.unlink()
    with contextlib.suppress(OSError):
        file.parent.rmdir()
    engine = resolve_engine("auto", python=sglang_environment)
    assert (engine.name, engine.why) == ("embedded", f"{why} in {sglang_environment}")


def test_interpreter_that_fails_is_an_error(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    assert "could not say whether it has SGLang" in resolve_engine(python=broken).why


def test_missing_interpreter_is_an_error() -> None:
    with pytest.raises(ArgumentValueError, match="is not an interpreter"):
        resolve_engine(python="/no/such/python")


def test_missing_sglang_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_probe, "find_server", lambda: ("", "SGLang is not installed"))
    with pytest.raises(EngineNotFoundError, match=r"SGLang is not installed(.|\n)*python="):
        resolve_engine("sglang")


def test_unknown_engine_is_an_error() -> None:
    with pytest.raises(ArgumentValueError, match="'auto', 'sglang' or 'embedded', not 'vllm'"):
        resolve_engine("vllm")


def test_embedded_server_without_torch_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EngineNotFoundError, match=r"needs torch(.|\n)*nbruntime\[embedded\]"):
        resolve_engine("embedded")
