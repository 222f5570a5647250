"""Phases of a launch in the lines that a server prints."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbruntime.launch.engines.sglang import SglangServerKind
from nbruntime.launch.phases import Phase, phase_of


@pytest.mark.parametrize(
    ("line", "phase"),
    [
        ("phase: loading weights", Phase("loading weights")),
        ("phase: downloading 12.1/92.9 MB", Phase("downloading", 12.1, 92.9, "MB")),
        ("phase: converting 3/272 tensors", Phase("converting", 3, 272, "tensors")),
        ("phase: warming up 1/2", Phase("warming up", 1, 2)),
        ("phase: downloading 12.1 MB", Phase("downloading", 12.1, None, "MB")),
        ("phase: ready", Phase("ready")),
        ("phase:", None),
        ("the next phase: ready", None),
    ],
)
def test_phase_is_read_from_a_line(line: str, phase: Phase | None) -> None:
    assert phase_of(line) == phase


@given(st.text())
def test_reading_a_phase_never_fails(line: str) -> None:
    phase_of(line)
    SglangServerKind("python").read_phase(line)


@given(
    st.from_regex(r"[a-z][a-z ]{0,20}[a-z]", fullmatch=True),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.sampled_from(["", "MB", "tensors"]),
)
def test_phase_is_read_from_its_own_text(name: str, done: int, total: int, unit: str) -> None:
    phase = Phase(name, done / 10, total / 10, unit)
    again = phase_of(f"phase: {name} {done / 10}/{total / 10} {unit}".rstrip())
    assert again == phase
