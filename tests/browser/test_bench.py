"""Load tests as JupyterLab shows them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import nbformat
import pytest
from playwright.sync_api import Browser, expect
from support.browser import JupyterServer, NotebookPage
from support.timed_server import timed_server

pytestmark = pytest.mark.browser


@pytest.fixture
def page(jupyter: JupyterServer, browser: Browser) -> Iterator[NotebookPage]:
    with NotebookPage(jupyter, browser, "lab") as opened:
        yield opened
        assert opened.dialogs == []
        assert opened.foreign == []


def test_a_load_test_is_stopped_by_interrupt_or_its_button(page: NotebookPage) -> None:
    with timed_server(first=0.02, step=0.02) as url:
        page.open(
            [
                "import nbruntime",
                f"result = nbruntime.bench({url!r}, sweep=[1, 4], seconds=60, output_tokens=10)",
                f"job = nbruntime.bench({url!r}, rate=20.0, seconds=600, output_tokens=10, block=False)",
            ],
            "bench",
        )
        page.run_cell(0)
        page.run_cell(1)
        output = page.output(1)
        expect(output).to_contain_text(re.compile(r"1 user, run 1 of 2.*TTFT p50", re.DOTALL))
        expect(output).to_contain_text("Kernel > Interrupt")
        page.screenshots("bench-running", output)
        page.interrupt()
        expect(output).to_contain_text("stopped")
        page.await_idle()
        page.run_cell(2)
        output = page.output(2)
        expect(output).to_contain_text(re.compile(r"20 requests/s.*TTFT p50", re.DOTALL))
        page.screenshots("bench-beside", output)
        output.get_by_role("button", name="Stop").click()
        expect(output).to_contain_text("stopped after 1 run")
        expect(output.get_by_role("button")).to_have_count(0)
        page.screenshots("bench-result", output)
    for cell in nbformat.read(page.save(), as_version=4).cells[1:]:
        for saved in cell.outputs:
            assert set(saved.get("data", {})) <= {"text/plain", "text/html"}
