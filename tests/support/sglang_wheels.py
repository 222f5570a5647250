"""SGLang's own wheels, fetched once into the user's cache folder: nothing of them is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

WHEELS = {
    "0.4.10.post2": "ca31b6d33d8b770b1e6d0271be855002c5333304fb440c412b43dbdc56be0a22",
    "0.5.23": "00b3cd5b265ac76c64185fbb6b95424f324ddd9f428d0306b77bc9db9d859937",
}
"""SHA-256 of each wheel; 2 MB and 39 MB."""

_TAGS = (
    "--implementation=cp",
    "--python-version=3.11",
    "--abi=cp311",
    "--platform=manylinux_2_34_x86_64",
    "--platform=any",
)
"""The pinned wheels, whatever Python and machine this is: only source is taken out of them."""

_KEPT = re.compile(r"sglang/(\w+|(lang|api|srt/parser)/.*|srt/(__init__|environ))\.py")
"""What the frontend language and the contract need of a wheel."""


def cache_folder() -> Path:
    """Where tests keep what they fetch."""
    if own := os.environ.get("NBRUNTIME_CACHE"):
        return Path(own).expanduser() / "tests"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "nbruntime" / "tests"


def source(version: str) -> Path:
    """A folder with the frontend language and the contract of a version of SGLang, to be put on a path."""
    target = cache_folder() / f"sglang-{version}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent) as name:
            unpacked = Path(name) / "source"
            with zipfile.ZipFile(_fetch(version, Path(name))) as wheel:
                wheel.extractall(unpacked, [each for each in wheel.namelist() if _KEPT.fullmatch(each)])
            try:
                os.replace(unpacked, target)
            except OSError:
                shutil.rmtree(unpacked)  # another run was quicker
    return target


def _fetch(version: str, folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"sglang=={version} --hash=sha256:{WHEELS[version]}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes", *_TAGS]
    subprocess.run([*pip, *options, "-r", requirements.name], cwd=folder, check=True, timeout=280)
    (wheel,) = folder.glob("*.whl")
    return wheel
