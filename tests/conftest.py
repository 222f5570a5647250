"""Marks of the tests, and the servers that several files share; each starts when a test first needs it."""

from __future__ import annotations

import functools
import gc
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from support.embedded_server import EmbeddedServer
from support.sglang_server import PYTHON, SglangServer

if TYPE_CHECKING:
    from nbruntime.endpoint import RuntimeEndpoint

# Threads of torch that spin while they wait would starve the servers on the same cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

# A script that runs the tests in its background has interrupts ignored, here and in all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


pytest.register_assert_rewrite("conformance")

# Hypothesis' limit of 0.2 s for an example would fail on a slow machine.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

# Without SGLang's real server its tests are left out, and the header of the run says so.
collect_ignore_glob = [] if PYTHON else ["sglang/test_*.py", "conformance/test_sglang.py"]


STARTS_SERVERS = re.compile(
    r"^\s*(?:from|import) (?:subprocess|http\.server"
    r"|support(?:\.| import )(?:clients|embedded_server|fake_engine|scripted_server|sglang))",
    re.MULTILINE,
)
"""Imports that mark all tests of a module `server`: they start servers or other processes."""


@functools.cache
def _starts_servers(module: Path) -> bool:
    return STARTS_SERVERS.search(module.read_text(encoding="utf-8")) is not None


@functools.cache
def _is_without_browser() -> bool:
    """True if the browser tests are left out: no browser is found, and it is not CI, which requires one."""
    from support.browser import find_chromium

    return os.environ.get("CI") != "true" and find_chromium() is None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests that start servers, and leave out the browser tests where no browser is found."""
    for item in items:
        if _starts_servers(item.path):
            item.add_marker("server")
    of_browser = [item for item in items if item.get_closest_marker("browser")]
    if of_browser and "not browser" not in config.option.markexpr and _is_without_browser():
        config.stash[LEFT_OUT] = len(of_browser)
        items[:] = [item for item in items if item not in of_browser]


LEFT_OUT = pytest.StashKey[int]()


def pytest_report_header() -> str:
    return f"SGLang's real server: {PYTHON or 'not in this run; see make test-sglang'}"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the outcomes of the conformance checks, side by side if both servers were checked."""
    import conformance

    if left_out := terminalreporter.config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(
            f"{left_out} browser tests were left out: there is no Chromium, Chrome or Edge here. "
            "Install one, or name one with CHROMIUM=PATH."
        )
    outcomes: dict[str, dict[str, str]] = {}
    for report in (each for key in ("passed", "failed") for each in terminalreporter.stats.get(key, ())):
        check = re.search(r"conformance/test_(\w+)\.py::test_check\[(.+)\]$", report.nodeid)
        if report.when == "call" and check is not None:
            server, name = check.groups()
            outcome = dict(report.user_properties).get("conformance", "fails")
            outcomes.setdefault(name, {})[server] = outcome if report.passed else "fails"
    if outcomes:
        terminalreporter.section("conformance")
        for line in conformance.table(outcomes):
            terminalreporter.write_line(line)


@pytest.fixture(scope="module", autouse=True)
def _imported_is_no_garbage() -> None:
    """Keep the objects of imported packages out of the garbage collector's way.

    Tests call `gc.collect` often. With torch and transformers imported each call took half a second.
    """
    gc.collect()
    gc.freeze()


def _serve(*flags: str, **keys: str) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer("--dtype", "float32", *flags, **keys)
    try:
        yield server.ready()
    finally:
        code, took = server.close()
    print(f"the server ended within {took:.2f} s")
    assert code == 0, server.log
    assert took < 5
    assert "Traceback" not in server.log, server.log


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """The embedded server without limits, in float32 as the reference model."""
    yield from _serve()


@pytest.fixture
def endpoint(server: Any) -> Iterator[RuntimeEndpoint]:
    """A client of `server`, which a folder or a module may have replaced by one of its own."""
    from nbruntime.endpoint import RuntimeEndpoint

    with RuntimeEndpoint(server.url) as client:
        yield client


@pytest.fixture(scope="session")
def guarded_server() -> Iterator[EmbeddedServer]:
    """The embedded server with two keys, small limits and no metrics."""
    flags = {
        "--max-total-tokens": 400,
        "--max-running-requests": 6,
        "--max-queued-requests": 4,
        "--max-body-bytes": 50_000,
    }
    yield from _serve(
        "--no-enable-metrics",
        *(str(part) for item in flags.items() for part in item),
        api_key="sk-test",
        admin_api_key="sk-admin",
    )


@pytest.fixture(scope="session")
def sglang() -> Iterator[SglangServer]:
    """SGLang's real server, with a key that was made for it; it takes a minute to start."""
    server = SglangServer(api_key="auto")
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def odd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the default model as other tools may write it."""
    from support.odd_folder import make_odd_folder

    from nbruntime.embedded.models.resolve import resolve_model

    return make_odd_folder(resolve_model().folder, tmp_path_factory.mktemp("odd"))


@pytest.fixture(scope="session")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """JupyterLab and Notebook 7."""
    from support.browser import JupyterServer

    with JupyterServer(tmp_path_factory.mktemp("jupyter") / "files") as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for one module: its driver runs an event loop, which asynchronous tests do not allow."""
    from support.browser import chromium

    with chromium() as started:
        yield started
