"""Fixtures of the tests of compatibility with SGLang."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.scripted_server import ScriptedServer

from nbruntime import RuntimeEndpoint


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def endpoint(server: ScriptedServer) -> Iterator[RuntimeEndpoint]:
    with RuntimeEndpoint(server.url, chat_template_name="chatml") as client:
        yield client
