"""Fixtures of the tests of the embedded server."""

from __future__ import annotations

import pytest
from support.embedded_server import PROMPT, WITNESS_TOKENS, EmbeddedServer


@pytest.fixture(scope="module")
def alone(server: EmbeddedServer) -> str:
    """The text of an undisturbed stream."""
    text: str = server.generate(PROMPT, max_new_tokens=WITNESS_TOKENS, ignore_eos=True)["text"]
    return text
