"""`Trace`: what the traces of a server's profiler hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nbruntime.protocol.step_log import Step


@dataclass(repr=False)
class Trace:
    """Events of one or several ranks, as columns.

    Parameters
    ----------
    paths : list of Path
        The files.
    ranks : list of str
        Names of the ranks.
    steps : list of Step
        Forward passes of all ranks.
    on_gpu : bool
        Whether it has kernels of a device.
    duration : float
        Seconds from the first event to the end of the last one.
    notes : list of str
        What could not be read, a sentence each.
    """

    paths: list[Path]
    ranks: list[str]
    steps: list[Step] = field(default_factory=list)
    on_gpu: bool = False
    duration: float = 0.0
    notes: list[str] = field(default_factory=list)
