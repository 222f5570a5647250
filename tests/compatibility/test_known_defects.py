"""Each known defect of SGLang's own clients (0.5.23) has its test in this folder, or a reason."""

from __future__ import annotations

import re
from pathlib import Path

NOT_OURS = {
    "3.1.17": "errors inside a program become warnings in SGLang's interpreter; what it gets of us is an "
    "exception, which the program's error() has (tests/frontend)",
    "3.1.18": "connections are shared, see the test; but a program that waits for a stuck server keeps the "
    "interpreter from ending: SGLang runs it in a thread that is no daemon",
    "3.2.06": "SGLang chooses its internal ports by itself, after it was started",
}
"""Defects that are not this package's to have, and why."""


def test_every_row_has_its_test() -> None:
    rows = {"3.1": 19, "3.2": 13, "3.3": 9}
    wanted = {f"{part}.{row:02}" for part, count in rows.items() for row in range(1, count + 1)}
    tests = "".join(
        path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*_defects.py")
    )
    names = re.findall(r"^(?:async )?def (test_3_\d_\d\d_\w+)", tests, re.MULTILINE)
    found = {".".join(name.split("_")[1:4]) for name in names}
    assert found | set(NOT_OURS) == wanted
    print(f"{len(found)} defects tested, {len(NOT_OURS)} not ours")
