"""Engines whose server is `fake_server.py`; `install` makes them known to `Runtime`."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nbruntime.launch import registry
from nbruntime.launch.engines import resolve as engines
from nbruntime.launch.engines.server_kind import AcceptedArguments, ServerKind
from nbruntime.launch.phases import Phase, phase_of
from nbruntime.launch.ports import PortClaim
from nbruntime.launch.readiness import http_status
from nbruntime.launch.supervisor.launch_spec import LaunchSpec
from nbruntime.launch.supervisor.system import read_processes
from nbruntime.runtime import Runtime

SERVER = Path(__file__).with_name("fake_server.py")


class FakeEngine(ServerKind):
    """Takes over a listening socket, as the embedded server does."""

    name = "fake"
    takes_listener = True
    watch = "^phase: "
    probe_interval = 5.0  # a probe that comes before the server's lines would leave out its phases

    def accept(self, arguments: Mapping[str, Any]) -> AcceptedArguments:
        values = {name: value for name, value in arguments.items() if value is not None}
        for name in ("model_path", "log_level"):
            values.pop(name, None)
        keys = {"api_key": values.pop("api_key")} if "api_key" in values else {}
        return AcceptedArguments(values, (), keys)

    def command(self, arguments: AcceptedArguments, claim: PortClaim) -> LaunchSpec:
        flags = []
        for name, value in arguments.values.items():
            flag = "--" + name.replace("_", "-")
            if value is True:
                flags.append(flag)
            else:
                flags += [f"{flag}={one}" for one in (value if isinstance(value, list) else [value])]
        if self.takes_listener:
            flags.append(f"--fd={claim.listener.fileno()}")
        else:
            flags += ["--host", claim.host, "--port", str(claim.port)]
        return LaunchSpec(
            argv=(self.python, "-I", str(SERVER), *flags),
            env={"NBRUNTIME_API_KEY": arguments.keys.get("api_key"), "PYTHONUNBUFFERED": "1"},
            pass_fds=(claim.listener.fileno(),) if self.takes_listener else (),
            watch=self.watch,
            secrets=tuple(arguments.keys.values()),
        )

    def read_phase(self, line: str) -> Phase | None:
        return phase_of(line)

    def is_ready(self, url: str, timeout: float) -> bool:
        return http_status(f"{url}/health", min(timeout, 0.5)) == 200


class BindingEngine(FakeEngine):
    """Binds its port by itself, as SGLang does."""

    name = "binding"
    takes_listener = False


def install() -> None:
    engines.EXTRA_ENGINES.update(fake=FakeEngine, binding=BindingEngine)


@contextlib.contextmanager
def installed() -> Iterator[None]:
    before = dict(engines.EXTRA_ENGINES)
    install()
    try:
        yield
    finally:
        engines.EXTRA_ENGINES.clear()
        engines.EXTRA_ENGINES.update(before)


def await_true(condition: Callable[[], object], seconds: float = 10.0) -> float:
    """Wait until something holds; returns after how many seconds it did."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "it did not happen in time"
        time.sleep(0.005)
    return time.monotonic() - start


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def await_gone(pids: list[int], seconds: float = 10.0) -> float:
    return await_true(lambda: not any(alive(pid) for pid in pids), seconds)


def read_pids(path: Path) -> list[int]:
    """The pids that a fake server wrote."""
    await_true(path.exists)
    return [int(line) for line in path.read_text().split()]


def children() -> set[int]:
    """The running children of this process, supervisors among them."""
    table = read_processes()
    return {pid for pid, entry in table.items() if entry.parent == os.getpid() and not entry.ended}


def start(**arguments: Any) -> Runtime:
    return Runtime(**{"engine": "fake", "port": 0, **arguments})


def connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return False
    return True


def run_elsewhere(code: str, *, end: str = "") -> list[str]:
    """Run code in another process, as another kernel would; gives the lines that it prints."""
    with start_elsewhere(code, end=end) as process:
        said, errors = process.communicate(timeout=60)
    assert errors == ""
    return said.splitlines()


def start_elsewhere(
    code: str, environment: Mapping[str, str] | None = None, *, end: str = ""
) -> subprocess.Popen[str]:
    """Start another process that runs code, as another kernel would."""
    script = f"""
import os, sys
sys.path[:0] = {[str(SERVER.parents[1]), str(SERVER.parents[2])]!r}
from support import fake_engine; fake_engine.install()
import nbruntime
from nbruntime.runtime import Runtime
{textwrap.dedent(code)}
sys.stdout.flush()
{end}
"""
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )


def server_folders() -> list[str]:
    return [path.name for path in registry.folder().iterdir() if path.is_dir()]
