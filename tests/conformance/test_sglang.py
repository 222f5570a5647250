"""SGLang's real server does what it was found to do, by the same checks; see `conformance`.

``NBRUNTIME_RECORD=1 make test-sglang`` writes the findings down anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.sglang_server import SglangServer

import conformance
from conformance import CHECKS, ODD_FOLDER, RECORD, deviations, recorded

pytestmark = pytest.mark.sglang

RECORDING = bool(os.environ.get("NBRUNTIME_RECORD"))


@pytest.fixture(scope="module")
def findings() -> Iterator[dict[str, Any]]:
    """What is found now; kept when all checks were made and everything is to be recorded."""
    found: dict[str, Any] = {}
    yield found
    if RECORDING and found.keys() == CHECKS.keys():
        text = json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False)
        RECORD.write_text(text + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def sglang_odd(odd_folder: Path) -> Iterator[SglangServer]:
    server = SglangServer(api_key="sk-conformance", model_path=str(odd_folder))
    try:
        yield server
    finally:
        server.close()


@pytest.mark.parametrize("name", CHECKS)
def test_check(
    request: pytest.FixtureRequest,
    findings: dict[str, Any],
    name: str,
    record_property: pytest.RecordProperty,
) -> None:
    server = request.getfixturevalue("sglang_odd" if name.startswith(ODD_FOLDER) else "sglang")
    findings[name] = conformance.run(name, server)
    record_property("conformance", "holds")
    if not RECORDING:
        assert list(deviations(recorded()[name], findings[name])) == []
