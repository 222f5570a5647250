"""When the server computed, by its trace or its steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from nbruntime.errors import ArgumentValueError
from nbruntime.profiling.plots.intervals import Floats, common
from nbruntime.profiling.plots.spans import span_of
from nbruntime.profiling.plots.step_table import step_table
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.trace.intervals import union

Source = Literal["trace", "steps"]
"""What tells when the server computed."""


@dataclass(frozen=True)
class Activity:
    """When something computed: its name, intervals that do not overlap, and the time that was looked at."""

    what: str
    of: str  # trace or profile
    starts: Floats
    ends: Floats
    begin: float
    end: float
    requests: tuple[Floats, Floats] | None  # when some were in flight; None if it is not known

    def idle(self) -> tuple[Floats, Floats]:
        """Return the starts and ends of the idle times."""
        inside = (self.ends > self.begin) & (self.starts < self.end)
        starts = np.concatenate([[self.begin], self.ends[inside]])
        ends = np.concatenate([self.starts[inside], [self.end]])
        long = ends > starts
        return starts[long], ends[long]


def activity(data: ProfileData, source: Source | None = None) -> Activity | None:
    """Return when the server computed; None if the source, or any, does not tell."""
    if source not in (None, *get_args(Source)):
        raise ArgumentValueError(
            f"source={source!r} tells nothing about idle time",
            hint='Give "trace", "steps", or None for the trace if there is one.',
        )
    return (_of_trace(data) if source != "steps" else None) or (
        _of_steps(data) if source != "trace" else None
    )


def _of_trace(data: ProfileData) -> Activity | None:
    if data.trace is None or not data.trace.ranks:
        return None
    rank = data.trace.ranks[0]
    intervals = data.trace.busy(rank).intervals - data.clock_offset
    if not len(intervals):
        return None
    what = "a kernel on the device" if data.trace.on_gpu else "an operator on the CPU"
    if len(data.trace.ranks) > 1:
        what += f" (rank {rank})"
    starts, ends = union(intervals[:, 0], intervals[:, 1])
    return Activity(
        what, "trace", starts, ends, float(starts[0]), float(ends[-1]), _in_flight(data, starts, ends)
    )


def _of_steps(data: ProfileData) -> Activity | None:
    steps = step_table(step for step in data.steps if step.stage != "IDLE")
    begin, end = span_of(data)
    if not len(steps):
        return None
    if data.steps_from == "trace":  # outside of it nothing is known
        begin, end = float(steps.starts.min()), float(steps.ends.max())
    starts, ends = union(steps.starts, steps.ends)
    what, of = (
        "a step, a forward pass of the model",
        data.steps_from if data.steps_from == "trace" else "profile",
    )
    return Activity(what, of, starts, ends, begin, end, _in_flight(data, starts, ends))


def _in_flight(data: ProfileData, starts: Floats, ends: Floats) -> tuple[Floats, Floats] | None:
    """Return when requests were in flight; None if there are none at this time, as with another clock."""
    requests = union(
        np.array([request.sent for request in data.requests]),
        np.array([request.ended for request in data.requests]),
    )
    return requests if len(common(starts, ends, *requests)[0]) else None
