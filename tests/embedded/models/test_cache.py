"""The cache that several processes share: one makes a model, the others wait."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.fake_engine import await_true
from support.tiny_models import Reports

from nbruntime.embedded.models import cache

MAKER = """
    import sys
    from pathlib import Path
    from nbruntime.embedded.models.cache import made_once

    def make(work):
        (work / "model").mkdir()
        (work / "model" / "part").write_text("first half")
        print("making", flush=True)
        sys.stdin.readline()
        (work / "model" / "whole").write_text("second half")
        return work / "model"

    target = Path(sys.argv[1])
    made_once(
        target,
        complete=lambda folder: (folder / "whole").is_file(),
        make=make,
        report=lambda phase, done, total, unit: print(phase, flush=True),
    )
    print("done", sorted(path.name for path in target.iterdir()), flush=True)
"""


@pytest.fixture
def makers() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(target: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", textwrap.dedent(MAKER), str(target)]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_of_two_processes_one_makes_the_model_and_one_waits(makers: Any, tmp_path: Path) -> None:
    first = makers(tmp_path / "model")
    assert line_of(first) == "making"
    second = makers(tmp_path / "model")
    assert line_of(second) == "waiting"
    assert not (tmp_path / "model").exists()
    first.stdin.write("go on\n")
    first.stdin.flush()
    assert line_of(first) == line_of(second) == "done ['part', 'whole']"


def test_waiting_process_reports_repeatedly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cache, "TELL_SECONDS", 0.0)
    monkeypatch.setattr(cache, "POLL_SECONDS", 0.001)
    reports = Reports()
    with ThreadPoolExecutor() as pool, cache._locked(tmp_path / "lock", reports):

        def wait() -> None:
            with cache._locked(tmp_path / "lock", reports):
                pass

        waiting = pool.submit(wait)
        await_true(lambda: len(reports) >= 3)
        assert not waiting.done()
        assert reports.phases == ["waiting"]


def test_partial_folder_of_a_killed_process_is_not_used(makers: Any, tmp_path: Path) -> None:
    killed = makers(tmp_path / "model")
    assert line_of(killed) == "making"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "model").exists()
    assert len(list(tmp_path.glob(".model.partial-*"))) == 1
    following = makers(tmp_path / "model")
    assert line_of(following) == "making"
    following.stdin.write("go on\n")
    following.stdin.flush()
    assert line_of(following) == "done ['part', 'whole']"
    assert list(tmp_path.glob(".model.partial-*")) == []
