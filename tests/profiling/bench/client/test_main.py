"""The end of the client process of a load test."""

from __future__ import annotations

import asyncio
import os
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from nbruntime.profiling.bench.client import main
from nbruntime.profiling.bench.client.lines import Lines


def test_it_ends_with_its_parent_even_if_its_event_loop_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(main, "ORPHAN_SECONDS", 0.01)
    monkeypatch.setattr(os, "_exit", lambda _: ended.set())
    reading, writing = os.pipe()
    os.close(writing)  # as the end of the parent does
    loop: Any = SimpleNamespace(stop=lambda: None)
    stuck = asyncio.new_event_loop()  # which never runs
    try:
        main._obey(Lines(reading), stuck, loop)
        assert ended.wait(20)
    finally:
        stuck.close()
        os.close(reading)
