"""JupyterLab and Notebook 7 in a real browser: one server, one Chromium, and pages that act as readers do.

    with JupyterServer(folder) as jupyter, chromium() as browser:
        with NotebookPage(jupyter, browser) as page:
            page.open(["1 + 1"])
            page.run_all()
            expect(page.output(0)).to_contain_text("2")

Playwright drives the Chromium, Chrome or Edge of the machine, or one that it can download itself.
Whatever happens, kernels, server and browser are ended by the `with`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import nbformat
from nbformat.sign import NotebookNotary
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

App = Literal["lab", "notebook"]

ARTIFACTS = Path(__file__).parents[2] / "artifacts"
"""Pictures for a person to look at; git ignores them."""

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--host-resolver-rules=MAP *.test 127.0.0.1",  # sites that are not of this machine by their name
)

PATIENCE = 60_000.0
"""Milliseconds that a page may take for anything."""

expect.set_options(timeout=20_000)

DARK = "JupyterLab Dark"
LIGHT = "JupyterLab Light"

_APP = "(window.jupyterapp || window.jupyterlab)"


BROWSERS = (
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"),
    *("microsoft-edge", "microsoft-edge-stable"),
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
"""What a Chromium may be called: a command on the PATH, or a file."""

DOWNLOAD_SECONDS = 240
"""How long Playwright's own download of Chromium may take."""


@functools.cache
def find_chromium() -> str | None:
    """Path of a Chromium, Chrome or Edge of this machine, else of the one that Playwright downloads."""
    named = os.environ.get("CHROMIUM")
    found = named or next(filter(None, map(shutil.which, BROWSERS)), None)
    return found or _playwrights_own()


def _playwrights_own() -> str | None:
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    try:
        if not Path(path).exists():
            command = [sys.executable, "-m", "playwright", "install", "chromium"]
            subprocess.run(command, capture_output=True, timeout=DOWNLOAD_SECONDS, check=True)
        subprocess.run([path, "--version"], capture_output=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):  # no network, or a system library is missing
        return None
    return path


def chromium_path() -> str:
    """Path of the browser; an error where there is none."""
    path = find_chromium()
    if path is None:
        raise RuntimeError(
            "These tests need Chromium, Chrome or Edge, and there is none on the PATH.\n"
            "Install one, or name one: CHROMIUM=/path/to/chromium."
        )
    return path


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium without a window, and end it."""
    path = chromium_path()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS), headless=True)
        try:
            yield browser
        finally:
            browser.close()


class JupyterServer:
    """JupyterLab and Notebook 7 on a free port, with settings of their own; ends with its kernels.

    Parameters
    ----------
    folder : Path
        Everything it writes goes here; notebooks are in `folder/notebooks`.
    environment : mapping, optional
        Added to that of its kernels.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.notebooks = folder / "notebooks"
        self.data = folder / "data"
        self._log = folder / "jupyter.log"
        self._token = secrets.token_hex(16)
        config = folder / "config"
        for made in (self.notebooks, self.data, config):
            made.mkdir(parents=True)
        settings = config / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
        settings.mkdir(parents=True)
        # A toast that asks about news would cover the page.
        (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
        shown = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        self._environment = {
            **shown,
            "JUPYTER_CONFIG_DIR": str(config),
            "JUPYTER_DATA_DIR": str(self.data),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "IPYTHONDIR": str(folder / "ipython"),
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(Path(__file__).parents[1]), shown.get("PYTHONPATH")])
            ),
            **(environment or {}),
        }
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        command = [
            *(sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"),
            f"--ServerApp.root_dir={self.notebooks}",
            "--ServerApp.ip=127.0.0.1",
            f"--ServerApp.port={self.port}",
            "--ServerApp.port_retries=0",
            f"--IdentityProvider.token={self._token}",
            "--LabApp.expose_app_in_browser=True",
            "--JupyterNotebookApp.expose_app_in_browser=True",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        ]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            self._await_answer()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def address(self, path: str) -> str:
        """Give the address of a page, with the token."""
        return f"{self.url}/{path}?token={self._token}&reset"

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def _await_answer(self) -> None:
        begun = time.monotonic()
        while time.monotonic() - begun < PATIENCE / 1000:
            assert self._process.poll() is None, self.log
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.url}/api", timeout=2).close()
                return
            time.sleep(0.1)
        raise AssertionError(f"Jupyter does not answer\n{self.log}")

    def _end(self) -> None:
        self._process.send_signal(signal.SIGTERM)  # it shuts its kernels down
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class NotebookPage:
    """One page of the browser, with one notebook at a time.

    Parameters
    ----------
    jupyter : JupyterServer
    browser : Browser
    app : str
        ``lab`` or ``notebook``.
    height : int
        Of the page, in pixels.

    Attributes
    ----------
    page : playwright.sync_api.Page
    dialogs : list of str
        What scripts of the page said with ``alert`` and the like.
    foreign : list of str
        Addresses on other hosts than Jupyter's that the page asked for.
    """

    def __init__(
        self, jupyter: JupyterServer, browser: Browser, app: App = "lab", *, height: int = 1000
    ) -> None:
        self.app = app
        self.dialogs: list[str] = []
        self.foreign: list[str] = []
        self._jupyter = jupyter
        self._context = browser.new_context(
            viewport={"width": 1100, "height": height}, device_scale_factor=1.5, reduced_motion="reduce"
        )
        self._context.set_default_timeout(PATIENCE)
        self._context.on("request", lambda request: self._note_request(request.url))
        self._context.on("dialog", self._note_dialog)
        self.page: Page = self._context.new_page()
        self._name = self._path = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            with contextlib.suppress(Exception):
                self.screenshot(f"failed-{self.app}-{Path(self._path).stem}")
        try:
            self.end_kernel()
        finally:
            self._context.close()

    # Opening

    def open(self, cells: Sequence[str], name: str = "notebook") -> None:
        """Write a notebook of these cells, open it, and wait for its kernel."""
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(source, id=f"cell-{n}") for n, source in enumerate(cells)],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        )
        self._name = name
        self._open(f"{name}.ipynb", notebook)
        self.await_idle()

    def reopen(self, *, trusted: bool, change: Callable[[Any], None] | None = None) -> None:
        """Save the notebook, and read the file as it is without its kernel.

        Parameters
        ----------
        trusted : bool
            Whether this reader trusts it.
        change : callable, optional
            Changes the notebook before.
        """
        self.save()
        notebook = nbformat.read(self._jupyter.notebooks / self._path, as_version=4)
        self.end_kernel()
        notebook.metadata.kernelspec = {"name": "gone", "display_name": "Gone", "language": "gone"}
        notebook.metadata.language_info["name"] = "gone"  # by its language, another kernel would be taken
        notebook.metadata["copy"] = secrets.token_hex(8)  # else an earlier signature holds
        if change is not None:
            change(notebook)
        if trusted:
            notary = NotebookNotary(data_dir=str(self._jupyter.data))
            notary.sign(notebook)
            notary.store.close()
        self._open(f"{self._name}-{'trusted' if trusted else 'untrusted'}.ipynb", notebook)
        no_kernel = self.page.get_by_role("dialog").filter(has_text="Select Kernel")
        no_kernel.get_by_role("button", name="No Kernel").click()
        no_kernel.wait_for(state="detached")
        seen = self.run_js(f"{_APP}.shell.currentWidget.content.widgets.every(cell => cell.model.trusted)")
        assert seen is trusted

    def _open(self, path: str, notebook: Any) -> None:
        nbformat.write(notebook, self._jupyter.notebooks / path)
        self._path = path
        where = "notebooks" if self.app == "notebook" else "lab/tree"
        self.page.goto(self._jupyter.address(f"{where}/{path}"), wait_until="domcontentloaded")
        self.page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
        if self.app == "lab":
            self.page.wait_for_function(f"() => {_APP}?.shell.currentWidget?.isRevealed")
            self.run_js(f"{_APP}.shell.collapseLeft()")

    # Doing

    def run_js(self, expression: str) -> Any:
        """Evaluate JavaScript in the page."""
        return self.page.evaluate(f"() => {expression}")

    def command(self, name: str, arguments: Mapping[str, Any] | None = None, *, wait: bool = True) -> None:
        """Execute one of Jupyter's commands; wait for its end only where that is not the end of cells."""
        call = f"{_APP}.commands.execute({json.dumps(name)}, {json.dumps(dict(arguments or {}))})"
        self.page.evaluate(f"async () => {{ await {call}; }}" if wait else f"() => {{ {call}; }}")

    def run_all(self, *, wait: bool = True) -> None:
        """Run every cell, and wait until all of them have ended."""
        self.command("notebook:run-all-cells", wait=False)
        if wait:
            self.page.wait_for_function(
                "() => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]"
                ".every(prompt => /\\[\\d+\\]/.test(prompt.textContent))"
            )
            self.await_idle()

    def run_cell(self, number: int) -> None:
        """Start one cell."""
        self.run_js(f"{{ {_APP}.shell.currentWidget.content.activeCellIndex = {number}; }}")
        self.command("notebook:run-cell", wait=False)

    def clear(self, number: int) -> None:
        """Clear the output of one cell."""
        self.run_js(f"{{ {_APP}.shell.currentWidget.content.activeCellIndex = {number}; }}")
        self.command("notebook:clear-cell-output")

    def interrupt(self) -> None:
        """Interrupt the kernel, as the menu does."""
        self.command("kernelmenu:interrupt", wait=False)

    def await_idle(self) -> None:
        """Wait until the kernel has nothing to do."""
        self.page.wait_for_function(
            f"() => {_APP}?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
        )

    def end_kernel(self) -> None:
        """Shut the notebook's kernel down, if it has one."""
        with contextlib.suppress(Exception):  # the page may be broken, which is what the test then says
            self.page.evaluate(
                f"async () => {{ await {_APP}.shell.currentWidget.sessionContext.shutdown(); }}"
            )

    def theme(self, name: str) -> None:
        """Change the theme."""
        self.command("apputils:change-theme", {"theme": name})
        light = "true" if name == LIGHT else "false"
        self.page.locator(f'body[data-jp-theme-light="{light}"]').wait_for(state="attached")

    def save(self) -> Path:
        """Save the notebook, and give its file."""
        self.command("docmanager:save")
        return self._jupyter.notebooks / self._path

    # Looking

    def cell(self, number: int) -> Locator:
        """Give a cell."""
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(number)

    def output(self, number: int) -> Locator:
        """Give the output of a cell."""
        return self.cell(number).locator(".jp-Cell-outputWrapper")

    def screenshot(self, name: str, what: Locator | None = None) -> Path:
        """Take a picture of the page, or of a part of it."""
        ARTIFACTS.mkdir(exist_ok=True)
        path = ARTIFACTS / f"{name}.png"
        (what or self.page).screenshot(path=path, animations="disabled")
        return path

    def screenshots(self, name: str, what: Locator | None = None) -> None:
        """Take a picture in a light and one in a dark theme."""
        for theme in (DARK, LIGHT):
            self.theme(theme)
            self.screenshot(f"{name}-{'light' if theme == LIGHT else 'dark'}", what)

    def _note_request(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.port != self._jupyter.port:
            self.foreign.append(url)

    def _note_dialog(self, dialog: Any) -> None:
        if dialog.type != "beforeunload":
            self.dialogs.append(dialog.message)
        dialog.accept()
