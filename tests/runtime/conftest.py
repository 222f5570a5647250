"""A runtime on a stand-in server that needs no model."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from support.fake_engine import installed, start

from nbruntime.runtime import Runtime


@pytest.fixture(autouse=True)
def _fake_engines() -> Iterator[None]:
    with installed():
        yield
    gc.collect()


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    with start() as started:
        yield started
