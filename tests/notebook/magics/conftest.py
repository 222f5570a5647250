"""An IPython shell and a kernel with the magics, and a scripted server."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from support import fake_engine
from support.ipython_shell import notebook_shell, run
from support.kernel import Kernel
from support.magics import story
from support.scripted_server import Reply, ScriptedServer

from nbruntime.notebook.magics import known_servers
from nbruntime.runtime import Runtime


@pytest.fixture(autouse=True)
def isolated_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Look at no server but those of the test, and leave none."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with fake_engine.installed():
        yield
        for server in known_servers._named.values():
            if isinstance(server, Runtime):
                server.shutdown()
        known_servers._named.clear()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[InteractiveShell]:
    with notebook_shell(tmp_path) as made:
        run(made, "%load_ext nbruntime")
        yield made
        run(made, "%unload_ext nbruntime")


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        running.on("/generate", story)
        running.on("/tokenize", Reply(json={"tokens": [1, 2, 3], "count": 3, "max_model_len": 100}))
        yield running


@pytest.fixture
def connected(shell: InteractiveShell, server: ScriptedServer) -> InteractiveShell:
    run(shell, f"%sgl_connect {server.url} --name main")
    return shell


@pytest.fixture
def kernel(tmp_path: Path, server: ScriptedServer) -> Iterator[Kernel]:
    started = Kernel(tmp_path)
    try:
        started.connect(server.url)
        yield started
    finally:
        started.close()
