"""Fixtures of the tests of generation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.embedded_server import PROMPT, EmbeddedServer
from support.reference import Reference


@pytest.fixture(scope="module")
def reference(server: EmbeddedServer) -> Reference:
    return Reference(server.get("/model_info").json()["model_path"])


@pytest.fixture(scope="module")
def greedy(server: EmbeddedServer) -> dict[str, Any]:
    """The answer that many tests begin from."""
    answer: dict[str, Any] = server.generate(PROMPT, max_new_tokens=24)
    return answer


@pytest.fixture(scope="module")
def incremental_server() -> Iterator[EmbeddedServer]:
    incremental = EmbeddedServer("--dtype", "float32", "--incremental-streaming-output")
    try:
        yield incremental.ready()
    finally:
        code, _ = incremental.close()
    assert code == 0, incremental.log
