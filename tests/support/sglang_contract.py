"""The types of SGLang's HTTP contract, out of its own wheel: strict decoders of requests and answers."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from types import ModuleType

from support.sglang_wheels import source

VERSION = "0.5.23"
MEMBER = "sglang/api/v1/api_types.py"
MEMBER_SHA256 = "60fd8b7b61b1b88424139f57879e16b4b756473b26f20e214314b74dec52352b"


def load_contract() -> ModuleType:
    """Import ``api_types.py`` by its path, without SGLang."""
    path = source(VERSION) / MEMBER
    assert hashlib.sha256(path.read_bytes()).hexdigest() == MEMBER_SHA256, f"{path} was changed; delete it"
    spec = importlib.util.spec_from_file_location("sglang_api_types", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where msgspec looks up the names of types
    spec.loader.exec_module(module)
    return module
