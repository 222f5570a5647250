"""Rows of a trace's tables."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OperatorRow:
    """All calls of one CPU operator: its name, class, calls, and seconds with and without its children."""

    name: str
    kind: str
    calls: int
    total: float
    self_time: float


@dataclass(frozen=True, slots=True)
class KernelRow:
    """All runs of one kernel: its name, class, calls and seconds."""

    name: str
    kind: str
    calls: int
    total: float
