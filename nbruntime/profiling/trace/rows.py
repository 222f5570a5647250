"""Rows and figures of a trace."""

from __future__ import annotations

from dataclasses import dataclass

from nbruntime.profiling.trace.events import Floats


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


@dataclass(frozen=True, slots=True)
class BusyTime:
    """How long a device, or the CPU where there is none, worked.

    Parameters
    ----------
    busy, span : float
        Seconds with work, and from the first to the last of it; sums over ranks.
    intervals : array of shape (n, 2)
        Begins and ends of the stretches with work, in seconds like `Step.start`, rank by rank.
    """

    busy: float
    span: float
    intervals: Floats

    @property
    def share(self) -> float:
        """Part of the time with work."""
        return self.busy / self.span if self.span else 0.0
