"""Consoles on a pseudo-terminal: IPython in a terminal, and jupyter_console in front of a kernel."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest
from support.scripted_server import ScriptedServer, Wait, cumulative, stream

pytestmark = pytest.mark.kernel

CONSOLES = {
    "ipython": ["-m", "IPython", "--simple-prompt", "--colors=NoColor", "--no-banner"],
    "jupyter_console": ["-m", "jupyter_console", "--simple-prompt", "--kernel=python3"],
}

WORDS = ["The ", "sky ", "is ", "**blue**", "."]
FIGURES = r"5 tokens .* length \(5\)"


class Console:
    """A console, and a person who types."""

    def __init__(self, arguments: list[str], folder: Path) -> None:
        environment = os.environ | {"IPYTHONDIR": str(folder), "JUPYTER_RUNTIME_DIR": str(folder)}
        self._child = pexpect.spawn(
            *(sys.executable, arguments), env=environment, timeout=60, encoding="utf-8", dimensions=(50, 200)
        )
        self.until_prompt()

    def type(self, line: str) -> None:
        self._child.sendline(line)

    def interrupt(self) -> None:
        self._child.sendintr()

    def until(self, pattern: str) -> str:
        """Wait for a text, and return what came with it and before."""
        self._child.expect(pattern)
        return f"{self._child.before}{self._child.after}"

    def until_prompt(self) -> str:
        return self.until(r"In \[\d+\]: ")

    def run(self, line: str) -> str:
        """Type a line, and return what it shows."""
        self.type(line)
        return self.until_prompt()

    def close(self) -> None:
        """Leave the console, which ends its kernel."""
        try:
            self.type("exit")
            self._child.expect(pexpect.EOF)
        finally:
            self._child.close(force=True)


@pytest.fixture(scope="module", params=CONSOLES)
def started(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    console = Console(CONSOLES[request.param], tmp_path_factory.mktemp("console"))
    try:
        console.run("%load_ext nbruntime")
        yield console
    finally:
        console.close()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        running.on("/generate", stream(*cumulative(WORDS)))
        yield running


@pytest.fixture
def console(started: Console, server: ScriptedServer) -> Console:
    assert "scripted-model" in started.run(f"%sgl_connect {server.url} --name main -o endpoint")
    return started


ASKED = {
    "magic": "get_ipython().run_cell_magic('sgl_generate', '-o answer', 'Why?')",
    "display": "display(endpoint.stream('Why?'))",
    "last value": "endpoint.stream('Why?')",
}


@pytest.mark.parametrize("line", ASKED.values(), ids=ASKED)
def test_the_text_is_printed_as_it_comes(console: Console, server: ScriptedServer, line: str) -> None:
    wait = Wait()
    events = cumulative(WORDS)
    server.on("/generate", stream(*events[:2], wait, *events[2:]))
    console.type(line)
    console.until("The sky ")
    assert wait.reached.wait(20)
    wait.go.set()
    console.until(r"is \*\*blue\*\*\.")
    console.until(FIGURES)
    console.until_prompt()


def test_interrupt_keeps_the_text(console: Console, server: ScriptedServer) -> None:
    events: list[Any] = cumulative(WORDS)
    server.on("/generate", stream(*events[:2], Wait(), done=False))
    console.type(ASKED["magic"])
    console.until("The sky ")
    console.interrupt()
    said = console.until_prompt()
    assert re.search("interrupted .* 2 tokens", said)
    assert "KeyboardInterrupt: the text received so far is in answer" in said
    server.wait_for("/abort_request")
    assert "'The sky '" in console.run("answer.text")


def test_other_views_are_text(console: Console, server: ScriptedServer) -> None:
    assert "scripted-model · answered at" in console.run("endpoint.panel()")
    assert "**blue**" in console.run("endpoint.stream('Why?').widget()")
    console.run("from nbruntime.endpoint import AsyncRuntimeEndpoint")
    console.run("from nbruntime.notebook.views.stream import StreamView")
    console.run("client = AsyncRuntimeEndpoint(endpoint.base_url)")
    assert "**blue**" in console.run("_ = await StreamView(await client.stream('Why?')).show_async()")
