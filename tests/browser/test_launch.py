"""Launches as JupyterLab shows them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Browser, expect
from support.browser import JupyterServer, NotebookPage

pytestmark = pytest.mark.browser

SETUP = """
from support import fake_engine; fake_engine.install()
from nbruntime import Runtime
"""


@pytest.fixture(params=["lab", "notebook"])
def page(jupyter: JupyterServer, browser: Browser, request: pytest.FixtureRequest) -> Iterator[NotebookPage]:
    with NotebookPage(jupyter, browser, request.param) as opened:
        yield opened
        assert opened.dialogs == []
        assert opened.foreign == []


def running_for(seconds: int) -> re.Pattern[str]:
    """What the view says after these seconds and later: a page that is looked at now and then skips some."""
    return re.compile(rf"downloading 12\.1/92\.9 MB, ([{seconds}-9]|[1-9]\d+|\d+ min.*) s")


def test_a_launch_shows_its_progress_and_its_end(page: NotebookPage, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    said = ["phase: downloading 12.1/92.9 MB", "<script>alert(1)</script>"]
    page.open(
        [
            SETUP,
            f"runtime = Runtime(engine='fake', port=0, gate={str(gate)!r}, say={said!r})",
            "failed = Runtime(engine='fake', port=0, fail='RuntimeError: no <b>memory</b>', say=['a line'])",
        ],
        "launch",
    )
    page.run_cell(0)
    page.run_cell(1)
    output = page.output(1)
    expect(output).to_contain_text(running_for(1))
    expect(output.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "13")
    log = output.locator(".nbr-folded")
    expect(log).to_be_hidden()
    output.locator("summary").click()
    expect(log).to_contain_text("<script>alert(1)</script>")
    expect(output).to_contain_text(running_for(3))
    expect(log).to_be_visible()  # it stays open, and the kernel is busy
    page.screenshots(f"launch-running-{page.app}", output)
    gate.write_text("go")
    expect(output).to_contain_text("ready after")
    page.await_idle()
    page.screenshots(f"launch-ready-{page.app}", output)
    page.run_cell(2)
    output = page.output(2)
    expect(output).to_contain_text("RuntimeError: no <b>memory</b>")
    expect(output.locator("pre", has_text="a line")).to_be_hidden()
    page.await_idle()
    page.screenshots(f"launch-failed-{page.app}", output)
    cells = nbformat.read(page.save(), as_version=4).cells
    for cell in cells[1:]:
        for saved in cell.outputs:
            assert set(saved.get("data", {})) <= {"text/plain", "text/html"}
