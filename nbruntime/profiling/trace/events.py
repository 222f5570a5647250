"""The events of traces as numpy columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

DEVICE_CATEGORIES = ("kernel", "gpu_memcpy", "gpu_memset")
"""What runs on a device."""

RUNTIME_CATEGORIES = ("cuda_runtime", "cuda_driver", "xpu_runtime", "mtia_runtime", "privateuse1_runtime")
"""Calls that launch work on a device; ROCm's have the names of CUDA."""

OLD_CATEGORIES = {
    "Operator": "cpu_op",
    "Kernel": "kernel",
    "Memcpy": "gpu_memcpy",
    "Memset": "gpu_memset",
    "Runtime": "cuda_runtime",
}
"""Names of categories in traces of torch before 1.13."""


class Thread(NamedTuple):
    """A row of a trace: a thread of a process, or a stream of a device (whose number is `process`)."""

    rank: int  # index into `Trace.ranks`
    process: int | str
    thread: int | str


@dataclass(eq=False)
class Events:
    """Slices with a begin and an end, sorted by `start`, outer ones first.

    Parameters
    ----------
    name, category, thread : array of int
        Indices into `names`, `categories` and `threads`.
    start, duration : array of int
        In ns; `start` since 1970 where the trace says the time of day.
    correlation : array of int
        The number that a launch shares with its kernel; -1 if it has none.
    stream : array of int
        Stream of a kernel; -1 if it has none.
    rank : array of int
        Index into `Trace.ranks`.
    names, categories : list of str
        Each one once.
    threads : list of Thread
        Each one once.
    """

    name: npt.NDArray[np.int32]
    category: npt.NDArray[np.int32]
    thread: npt.NDArray[np.int32]
    start: Integers
    duration: Integers
    correlation: Integers
    stream: Integers
    rank: npt.NDArray[np.int32]
    names: list[str] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    threads: list[Thread] = field(default_factory=list)

    @classmethod
    def empty(cls) -> Events:
        """Return no events."""
        small, large = np.empty(0, np.int32), np.empty(0, np.int64)
        return cls(small, small, small, large, large, large, large, small)

    def __len__(self) -> int:
        return len(self.start)

    @property
    def end(self) -> Integers:
        """Ends in ns."""
        return self.start + self.duration

    def of(self, *categories: str) -> Flags:
        """Mark the events of some categories."""
        wanted = [number for number, category in enumerate(self.categories) if category in categories]
        return np.isin(self.category, wanted)
