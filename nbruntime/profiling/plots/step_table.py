"""The steps of a profile as columns, by stage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nbruntime.profiling.plots.colours import Colours
from nbruntime.profiling.plots.intervals import Floats
from nbruntime.protocol.step_log import PREFILL_STAGES, Step

Stage = Literal["prefill", "decode"]

STAGES: tuple[Stage, Stage] = ("prefill", "decode")

NO_STEPS = (
    "No step of the server is known.\nThe embedded server logs its steps; "
    "for SGLang, profile with trace=True."
)


@dataclass(frozen=True)
class StepTable:
    """Steps of one stage: Unix times, seconds and counts, in the order of their start."""

    starts: Floats
    durations: Floats
    batch_sizes: Floats
    tokens: Floats

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def ends(self) -> Floats:
        """Unix times of their ends."""
        return self.starts + self.durations


def step_table(steps: Iterable[Step]) -> StepTable:
    """Put steps into columns."""
    rows = [(step.start, step.duration, step.batch_size, step.tokens) for step in steps]
    columns = np.array(sorted(rows), dtype=float).reshape(-1, 4).T
    return StepTable(*columns)


def by_stage(steps: Iterable[Step]) -> dict[Stage, StepTable]:
    """Divide steps into prefill and decode; SGLang's IDLE steps compute nothing and are left out."""
    parts: dict[Stage, list[Step]] = {"prefill": [], "decode": []}
    for step in steps:
        if step.stage != "IDLE":
            parts["prefill" if step.stage in PREFILL_STAGES else "decode"].append(step)
    return {stage: step_table(part) for stage, part in parts.items()}


def stage_colour(stage: Stage, colours: Colours) -> str:
    """Return the colour of a stage."""
    return colours.prefill if stage == "prefill" else colours.decode
