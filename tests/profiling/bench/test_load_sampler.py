"""Samples of the load of a server under a load test."""

from __future__ import annotations

import socket
import time

import pytest

from nbruntime.endpoint.settings import Settings
from nbruntime.profiling.bench import load_sampler
from nbruntime.profiling.bench.load_sampler import LoadSampler
from nbruntime.secrets import Secret


def test_a_server_that_hangs_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_sampler, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = Settings(f"http://127.0.0.1:{silent.getsockname()[1]}", Secret(None))
        began = time.monotonic()
        with LoadSampler(settings) as sampler:
            time.sleep(0.1)
    assert time.monotonic() - began < 60  # the time-out of other requests is 600 s
    assert sampler.samples == []
