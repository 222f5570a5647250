"""Without a browser the browser tests are left out and the run says so; in CI that is a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIGHT = "tests/repository/test_import.py"


def run_tests(tmp_path: Path, ci: str) -> subprocess.CompletedProcess[str]:
    """Run the launch tests of the browser and a light one, where no browser is and none can be downloaded."""
    environment = {name: value for name, value in os.environ.items() if name != "CHROMIUM"} | {
        "CI": ci,
        "PATH": str(tmp_path),
        "PLAYWRIGHT_BROWSERS_PATH": str(tmp_path),
        "PLAYWRIGHT_DOWNLOAD_HOST": "http://127.0.0.1:9",
        "TMPDIR": str(tmp_path),
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/browser/test_launch.py",
        LIGHT,
    ]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)


def test_the_browser_tests_are_left_out_with_a_plain_line(tmp_path: Path) -> None:
    ran = run_tests(tmp_path, ci="")
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout
    assert "2 browser tests were left out: there is no Chromium, Chrome or Edge here." in ran.stdout


def test_in_ci_a_missing_browser_is_a_failure(tmp_path: Path) -> None:
    ran = run_tests(tmp_path, ci="true")
    print(ran.stdout)
    assert ran.returncode == 1, ran.stdout
    assert "Install one, or name one: CHROMIUM=/path/to/chromium." in ran.stdout
