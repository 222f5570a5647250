"""Puts a trace on the clock of a profile: by its steps, by its own time of day, or by its begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.trace.trace import Trace
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


def clock_of_trace(data: ProfileData, trace: Trace) -> TraceClock:
    """Find the clock of a trace; its steps are compared with those of the profile if these are from a log."""
    begin = int(trace.events.start[0]) / 1e9 if len(trace.events) else 0.0
    logged = data.steps if data.steps_from == "step log" else []
    traced = steps_of_first_rank(trace)
    if begin >= EARLIEST:
        expected = 0.0 - data.clock_offset
        shift = _by_nearest_steps(logged, traced, expected)
        return TraceClock(expected, "time of day") if shift is None else TraceClock(shift, "steps")
    shift = _by_same_rhythm(logged, traced)
    return TraceClock(data.started - begin, "begin") if shift is None else TraceClock(shift, "steps")


def steps_of_first_rank(trace: Trace) -> list[Step]:
    """Return the steps of one rank: those of tensor-parallel ranks are the same."""
    return trace.steps_of(trace.ranks[0]) if trace.ranks else trace.steps


def add_trace(data: ProfileData, trace: Trace) -> None:
    """Put a trace into a profile: its steps too, on the client's clock, if the server logged none."""
    data.trace = trace
    data.trace_files = [str(path) for path in trace.paths]
    notes = list(trace.notes)
    if data.steps_from != "step log":
        clock = clock_of_trace(data, trace)
        steps = steps_of_first_rank(trace)
        data.steps = [msgspec.structs.replace(step, start=step.start + clock.shift) for step in steps]
        data.steps_from = "trace" if steps else ""
        if clock.means == "begin":
            notes.append("The trace does not say the time of day: it was put at the begin of the profile.")
        if len(trace.ranks) > 1:
            notes.append(f"The steps are those of rank {trace.ranks[0]}, of {len(trace.ranks)} ranks.")
    data.notes += [note for note in notes if note not in data.notes]


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
