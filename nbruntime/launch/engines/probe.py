"""Whether an interpreter can run SGLang's server on a device; standard library only.

Imported for the cheap checks; for those that need torch, another interpreter gets this file's text on stdin,
so that torch is never imported into a kernel.
"""

from __future__ import annotations

import glob
import importlib.util
import json
import os
from typing import Any

DEVICE_FILES = (
    "/dev/nvidia[0-9]*",
    "/dev/dxg",
    "/dev/kfd",
    "/dev/dri/render*",
    "/dev/davinci[0-9]*",
    "/dev/accel*",
)
"""Device files of Nvidia (also below WSL), AMD, Intel, Ascend and Gaudi on Linux."""

SERVER_PACKAGES = ("torch", "fastapi", "uvicorn", "zmq")
"""Packages that SGLang's server needs and its frontend does not."""

TORCH_DEVICES = ("cuda", "xpu", "npu", "hpu", "musa")
"""Modules of torch for devices that SGLang runs on; AMD's is ``cuda``."""


def find_server() -> tuple[str, str]:
    """Return the folder of SGLang's server, or why it cannot run here; imports nothing."""
    spec = importlib.util.find_spec("sglang")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        return "", "SGLang is not installed"
    folder = folders[0]
    if not all(os.path.isfile(f"{folder}/{file}") for file in ("launch_server.py", "srt/server_args.py")):
        return "", "SGLang's server is not installed"
    for package in SERVER_PACKAGES:
        if importlib.util.find_spec(package) is None:
            return "", f"SGLang's server is not installed ({package} is missing)"
    return folder, ""


def may_have_device() -> bool:
    """Return True if a device file exists, so that asking torch is worth its time."""
    return any(glob.glob(pattern) for pattern in DEVICE_FILES)


def find_device() -> str:
    """Return the name of the device that torch finds, or an empty text; takes seconds."""
    import torch

    for kind in TORCH_DEVICES:
        module = getattr(torch, kind, None)
        if module is not None and module.is_available():
            return str(module.get_device_name(0))
    return ""


def look() -> dict[str, Any]:
    """Return the ``folder`` of SGLang's server, its ``device``, and ``why`` it cannot be used; some empty."""
    folder, why = find_server()
    device = ""
    if folder:
        device = find_device() if may_have_device() else ""
        why = "" if device else "SGLang is installed, but there is no GPU"
    return {"folder": folder, "device": device, "why": why}


if __name__ == "__main__":
    print(json.dumps(look()))
