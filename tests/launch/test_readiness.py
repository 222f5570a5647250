"""Watching a server until it is ready."""

from __future__ import annotations

import itertools
import os
import signal
import stat
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.fake_engine import BindingEngine, FakeEngine, alive, await_true, read_pids

from nbruntime.errors import LaunchError, LaunchTimeoutError, ModelNotFoundError, PortInUseError
from nbruntime.launch.engines import resolve as engines
from nbruntime.launch.engines.embedded import EmbeddedServerKind
from nbruntime.launch.engines.sglang import SglangServerKind
from nbruntime.launch.phases import Phase
from nbruntime.launch.ports import PortClaim, claim_port
from nbruntime.launch.process import ServerProcess
from nbruntime.launch.readiness import await_ready
from nbruntime.launch.supervisor.launch_spec import LaunchSpec


class Launcher:
    """One launch of a fake server, as `Runtime` does it."""

    def __init__(self, engine: FakeEngine, timeout: float = 30.0, **arguments: Any) -> None:
        self.phases: list[Phase] = []
        self.engine = engine
        self.timeout = timeout
        with claim_port("127.0.0.1", 0, listen=engine.takes_listener) as claim:
            self.url = claim.url
            self.process = ServerProcess(engine.command(engine.accept(arguments), claim))

    def wait_for_line(self, line: str) -> None:
        """Wait until the server has printed a line, before the time of `wait` begins."""
        await_true(lambda: line in self.process.logs().splitlines())

    def wait(self) -> None:
        await_ready(self.process, self.engine, self.url, timeout=self.timeout, on_phase=self.phases.append)

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stop()


@pytest.mark.parametrize("kind", [FakeEngine, BindingEngine])
def test_launch_goes_through_its_phases(kind: type[FakeEngine]) -> None:
    with Launcher(kind(sys.executable), say=["phase: downloading 1/2 MB", "phase: warming up"]) as launch:
        launch.wait()
        assert [str(phase) for phase in launch.phases] == [
            "loading weights",
            "downloading 1/2 MB",
            "warming up",
            "ready",
        ]


def test_launch_returns_as_soon_as_the_server_is_ready(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    class UnprobedEngine(FakeEngine):
        """Asked only when it says that it is ready."""

        probe_interval = 60.0

    with Launcher(UnprobedEngine(sys.executable), gate=str(gate)) as launch:
        opener = threading.Thread(target=lambda: gate.write_text("go"))
        opener.start()
        launch.wait()
        now = time.time()
        opener.join()
        ready = float(launch.process.logs().rpartition("ready at ")[2].split()[0])
    print(f"returned {1e3 * (now - ready):.1f} ms after the server was ready")
    assert now - ready < 10


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"fail": "ValueError: no such dtype"},
            LaunchError,
            r"ValueError: no such dtype \(it exited with code 3\)",
        ),
        ({"fail": "error: ModelNotFoundError: no model y"}, ModelNotFoundError, "no model y"),
        ({"fail": "__main__.py: error: argument --dtype: invalid"}, LaunchError, "argument --dtype"),
        ({"fail": "something"}, LaunchError, "it exited with code 3"),
        ({"fail": "nbruntime.errors.ModelNotFoundError: no model x"}, ModelNotFoundError, "no model x"),
        ({"fail": "OSError: [Errno 98] Address already in use"}, PortInUseError, "already in use"),
        (
            {"kill": signal.SIGKILL.value},
            LaunchError,
            "killed by SIGKILL, as when the machine runs out of memory",
        ),
    ],
)
def test_failed_launch_gives_the_cause_and_leaves_no_process(
    arguments: dict[str, Any], error: type[LaunchError], message: str, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    with Launcher(FakeEngine(sys.executable), children=1, pids=str(pids), **arguments) as launch:
        with pytest.raises(error, match=message) as caught:
            launch.wait()
        assert "'loading weights'" in str(caught.value)
        assert any("phase: loading weights" in line for line in caught.value.log_lines)
        launch.process.wait(10)
        assert not any(alive(pid) for pid in read_pids(pids))


def test_launch_error_says_what_to_do_in_the_words_of_the_server() -> None:
    fail = "error: ModelNotFoundError: a layer is missing\nFetch the folder again."
    with (
        Launcher(FakeEngine(sys.executable), fail=fail) as launch,
        pytest.raises(ModelNotFoundError, match="a layer is missing") as caught,
    ):
        launch.wait()
    assert str(caught.value).splitlines()[1] == "Fetch the folder again."


def test_launch_error_keeps_more_of_the_log_than_it_shows() -> None:
    with (
        Launcher(FakeEngine(sys.executable), spam=150, fail="something") as launch,
        pytest.raises(LaunchError, match="log_lines") as caught,
    ):
        launch.wait()
    assert len(caught.value.log_lines) == 152
    shown = str(caught.value).partition("Last 20 lines of the log:\n")[2].splitlines()
    assert [line.strip() for line in shown] == list(caught.value.log_lines[-20:])


def test_launch_timeout(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with Launcher(FakeEngine(sys.executable), timeout=0.5, gate=str(gate)) as launch:
        launch.wait_for_line("phase: loading weights")
        with pytest.raises(LaunchTimeoutError, match=r"within 0.5 s: its last phase was 'loading weights'"):
            launch.wait()


class HangingEngine(FakeEngine):
    """Its server answers no question: each takes the whole time that it is given, up to 20 s."""

    probe_interval = 0.1

    def is_ready(self, url: str, timeout: float) -> bool:
        time.sleep(min(timeout, 20))
        return False


def test_hanging_probe_does_not_delay_the_timeout(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with Launcher(HangingEngine(sys.executable), timeout=0.5, gate=str(gate)) as launch:
        began = time.monotonic()
        with pytest.raises(LaunchTimeoutError):
            launch.wait()
        took = time.monotonic() - began
    print(f"a time-out of 0.5 s raised after {took:.2f} s")
    assert took < 10  # the probe alone would take 20 s


def test_probe_time_counts_towards_the_interval(tmp_path: Path) -> None:
    times: list[float] = []

    class SlowEngine(HangingEngine):
        def is_ready(self, url: str, timeout: float) -> bool:
            times.append(time.monotonic())
            return super().is_ready(url, min(timeout, 0.5))

    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with (
        Launcher(SlowEngine(sys.executable), timeout=4, gate=str(gate)) as launch,
        pytest.raises(LaunchTimeoutError),
    ):
        launch.wait()
    least = min(later - earlier for earlier, later in itertools.pairwise(times))
    print(f"{len(times)} probes of 0.5 s, 0.1 s between them, in 4 s; {least:.2f} s from one to the next")
    assert least < 0.9  # waiting twice for each, it would be a second


@pytest.mark.parametrize(("kind", "pages"), [(EmbeddedServerKind, 1), (SglangServerKind, 2)])
def test_probe_takes_no_longer_than_the_time_left(
    kind: type[engines.ServerKind], pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    def status(url: str, timeout: float) -> int:
        given.append(timeout)
        return 404

    monkeypatch.setattr(sys.modules[kind.__module__], "http_status", status)
    assert not kind("python").is_ready("http://127.0.0.1:1", 0.1)
    assert given == [0.1] * pages


def test_download_does_not_count_against_the_timeout(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with Launcher(
        FakeEngine(sys.executable), timeout=2.5, gate=str(gate), say=["phase: downloading 1/2 MB"]
    ) as launch:
        launch.wait_for_line("phase: downloading 1/2 MB")
        opener = threading.Timer(3.0, lambda: gate.write_text("go"))
        opener.start()
        start = time.monotonic()
        launch.wait()
        assert time.monotonic() - start > 2.9
        opener.join()


def test_repeated_phase_does_not_count_as_a_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import time\nfor n in range(20): print('phase: waiting', flush=True); time.sleep(0.2)\nexit(3)"

    class WaitingEngine(FakeEngine):
        def command(self, arguments: Any, claim: PortClaim) -> LaunchSpec:
            return LaunchSpec((self.python, "-I", "-c", code), watch=self.watch)

    monkeypatch.setattr("nbruntime.launch.readiness.FETCHING_STALL", 2.5)
    with (
        Launcher(WaitingEngine(sys.executable), timeout=1.2) as launch,
        pytest.raises(LaunchError, match="exited with code 3"),
    ):
        launch.wait()


def test_much_output_while_loading_does_not_stop_the_launch() -> None:
    with Launcher(FakeEngine(sys.executable), spam=100_000) as launch:
        launch.wait()
        assert launch.phases[-1] == Phase("ready")
        await_true(lambda: launch.process.logs(1).startswith("ready at"))


def test_key_is_masked_in_the_log() -> None:
    with Launcher(FakeEngine(sys.executable), api_key="hunter2", say=["the key is {key}"]) as launch:
        launch.wait()
        assert "the key is ***" in launch.process.logs()
        assert "hunter2" not in Path(f"/proc/{launch.process.pid}/cmdline").read_text()
        assert stat.S_IMODE(os.stat(f"/proc/{launch.process.pid}/environ").st_mode) == 0o400
