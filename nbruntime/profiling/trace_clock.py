"""Puts a trace on the clock of a profile: by its steps, by its own time of day, or by its begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nbruntime.profiling.profile_data import ProfileData
from nbruntime.protocol.step_log import Step

EARLIEST = 1e9
"""Unix time in 2001: a trace that begins earlier counts from something else, such as the machine's start."""

CLOSE = 0.25
"""Seconds within which the step of a trace and one of the log are the same if both know the time of day."""

ALIKE = 0.9
"""Part of the steps of a trace whose stage and batch size must be those of the log, to join the two."""

Means = Literal["steps", "time of day", "begin"]


@dataclass(frozen=True, slots=True)
class TraceClock:
    """What to add to a trace's times to get those of the client's clock, and how that is known.

    Parameters
    ----------
    shift : float
        Seconds.
    means : str
        ``"steps"``: the same steps are in the step log. ``"time of day"``: the trace says it, and the
        server's clock is known. ``"begin"``: a guess; the trace is put at the begin of the profile.
    """

    shift: float
    means: Means


def trace_clock(data: ProfileData, steps: Sequence[Step], begin: float) -> TraceClock:
    """Find the clock of a trace.

    Parameters
    ----------
    data : ProfileData
        The profile; its steps are compared with those of the trace if they come from a step log.
    steps : sequence of Step
        The steps of one rank of the trace, in their order, by its own clock.
    begin : float
        Its first event, by its own clock.
    """
    logged = data.steps if data.steps_from == "step log" else []
    if begin >= EARLIEST:
        shift = _by_nearest_steps(logged, steps, -data.clock_offset)
        return TraceClock(-data.clock_offset, "time of day") if shift is None else TraceClock(shift, "steps")
    shift = _by_same_rhythm(logged, steps)
    return TraceClock(data.started - begin, "begin") if shift is None else TraceClock(shift, "steps")


def _by_nearest_steps(logged: Sequence[Step], traced: Sequence[Step], expected: float) -> float | None:
    """Refine a shift by the median distance between each traced step and the nearest logged one."""
    if not logged or not traced:
        return None
    log, trace = _starts(logged), _starts(traced) + expected
    after = np.clip(np.searchsorted(log, trace), 1, max(len(log) - 1, 1))
    choices = np.stack([log[np.minimum(after, len(log) - 1)], log[after - 1]]) - trace
    nearest = np.where(np.abs(choices[0]) < np.abs(choices[1]), choices[0], choices[1])
    close = nearest[np.abs(nearest) < CLOSE]
    return expected + float(np.median(close)) if len(close) * 2 >= len(nearest) else None


def _by_same_rhythm(logged: Sequence[Step], traced: Sequence[Step]) -> float | None:
    """Find the place in the log where steps of the same stages and sizes began in the same rhythm."""
    if min(len(logged), len(traced)) < 3:
        return None
    short, long = sorted((traced, logged), key=len)
    windows = len(long) - len(short) + 1
    kinds = {kind: number for number, kind in enumerate(sorted({_kind(step) for step in (*short, *long)}))}
    short_kinds = np.array([kinds[_kind(step)] for step in short])
    long_kinds = np.array([kinds[_kind(step)] for step in long])
    short_starts, long_starts = _starts(short), _starts(long)
    best: tuple[float, float] | None = None
    for place in range(windows):
        inside = slice(place, place + len(short))
        if np.mean(long_kinds[inside] == short_kinds) < ALIKE:
            continue
        shifts = long_starts[inside] - short_starts
        spread = float(np.std(shifts))
        if best is None or spread < best[0]:
            best = spread, float(np.median(shifts))
    if best is None:
        return None
    return best[1] if short is traced else -best[1]


def _kind(step: Step) -> tuple[str, int]:
    return step.stage, step.batch_size


def _starts(steps: Sequence[Step]) -> NDArray[np.float64]:
    return np.array([step.start for step in steps])
