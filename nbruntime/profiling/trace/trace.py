"""`Trace`: what the traces of a server's profiler hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nbruntime.display.cards import Card, CardMixin, Details
from nbruntime.display.numbers import duration, percent
from nbruntime.errors import ArgumentValueError
from nbruntime.profiling.trace.columns import MemoryEvent
from nbruntime.profiling.trace.events import (
    DEVICE_CATEGORIES,
    RUNTIME_CATEGORIES,
    Events,
    Flags,
    Floats,
    Integers,
)
from nbruntime.profiling.trace.intervals import self_times, union
from nbruntime.profiling.trace.kinds import CLASSES, kernel_class, operator_class
from nbruntime.profiling.trace.rows import BusyTime, KernelRow, OperatorRow
from nbruntime.profiling.trace.steps import SECOND, launched
from nbruntime.protocol.step_log import Step


@dataclass(repr=False, eq=False)
class Trace(CardMixin):
    """Events of one or several ranks, as columns.

    Parameters
    ----------
    paths : list of Path
        The files.
    ranks : list of str
        Names of the ranks.
    steps : list of Step
        Forward passes of all ranks, by their start.
    on_gpu : bool
        Whether it has kernels of a device.
    duration : float
        Seconds from the first event to the end of the last one.
    notes : list of str
        What could not be read, a sentence each.
    events : Events
        The slices of all ranks, by their start.
    step_ranks : array of int
        For each step the index of its rank.
    step_of : array of int
        For each event the index of its step; -1 if it belongs to none.
    memory_events : list of tuple
        Allocations and releases, if the profiler noted them.
    """

    paths: list[Path]
    ranks: list[str]
    steps: list[Step] = field(default_factory=list)
    on_gpu: bool = False
    duration: float = 0.0
    notes: list[str] = field(default_factory=list)
    events: Events = field(default_factory=Events.empty)
    step_ranks: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    step_of: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    memory_events: list[MemoryEvent] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Names of the events, each once; `events.name` are indices into them."""
        return self.events.names

    def __repr__(self) -> str:
        return self._card().text()

    def _card(self) -> Card:
        seconds = {kind: time for kind, time in self.classes().items() if time}
        whole = sum(seconds.values())
        top = sorted(seconds, key=lambda kind: -seconds[kind])[:3]
        busy = self.busy()
        stages = Counter(step.stage for step in self.steps)
        return Card(
            "Trace",
            ", ".join(path.name for path in self.paths[:2]) + (" …" if len(self.paths) > 2 else ""),
            pairs=[
                ("duration", duration(self.duration)),
                ("ranks", ", ".join(self.ranks)),
                ("steps", ", ".join(f"{count:,} {stage}" for stage, count in stages.items())),
                ("device busy" if self.on_gpu else "CPU busy", percent(busy.share) if busy.span else None),
                ("time", ", ".join(f"{kind} {percent(seconds[kind] / whole)}" for kind in top)),
            ],
            details=[
                Details("classes", rows=[(kind, duration(time)) for kind, time in seconds.items()]),
                Details("notes", text="\n".join(self.notes)),
            ],
        )

    def steps_of(self, rank: str) -> list[Step]:
        """Return the steps of one rank."""
        index = self._rank(rank)
        return [step for step, at in zip(self.steps, self.step_ranks.tolist(), strict=True) if at == index]

    def operators(self, top: int | None = None) -> list[OperatorRow]:
        """Return the operators of the CPU, those with most time of their own first."""
        sums = self._sums(self.events.of("cpu_op"), self.events.duration, self._self_times)
        rows = [OperatorRow(name, operator_class(name), calls, *seconds) for name, calls, seconds in sums]
        return sorted(rows, key=lambda row: -row.self_time)[:top]

    def kernels(self, top: int | None = None) -> list[KernelRow]:
        """Return the kernels, copies and fills of the device, those with most time first."""
        sums = self._sums(self.events.of(*DEVICE_CATEGORIES), self.events.duration)
        rows = [KernelRow(name, kernel_class(name), calls, *seconds) for name, calls, seconds in sums]
        return sorted(rows, key=lambda row: -row.total)[:top]

    def classes(self) -> dict[str, float]:
        """Return the seconds of each class: of kernels on a GPU, else of the operators' own time."""
        seconds = dict.fromkeys(CLASSES, 0.0)
        if self.on_gpu:
            for kernel in self.kernels():
                seconds[kernel.kind] += kernel.total
        else:
            for operator in self.operators():
                seconds[operator.kind] += operator.self_time
        return seconds

    def classes_by_stage(self) -> dict[str, dict[str, float]]:
        """Return the seconds of each class by stage of the steps; the name is empty outside of steps.

        The classes' sums are those of `classes`.
        """
        chosen = self.events.of(*(DEVICE_CATEGORIES if self.on_gpu else ("cpu_op",)))
        seconds = (self.events.duration if self.on_gpu else self._self_times)[chosen] / SECOND
        class_of = kernel_class if self.on_gpu else operator_class
        kinds = np.array([CLASSES.index(class_of(name)) for name in self.names], np.int64)
        stages = list(dict.fromkeys(["", *(step.stage for step in self.steps)]))
        # Index -1, of events outside of steps, is the last one.
        stage_of = np.array([stages.index(step.stage) for step in self.steps] + [0], np.int64)
        cells = stage_of[self.step_of[chosen]] * len(CLASSES) + kinds[self.events.name[chosen]]
        sums = np.bincount(cells, seconds, len(stages) * len(CLASSES)).reshape(len(stages), -1)
        rows = zip(stages, sums.tolist(), strict=True)
        return {stage: dict(zip(CLASSES, row, strict=True)) for stage, row in rows if any(row)}

    def busy(self, rank: str | None = None) -> BusyTime:
        """Return how long the device, or else operators on any thread, worked; of all ranks or of one."""
        busy = span = 0
        intervals = [np.empty((0, 2))]
        for start, end in self._work(rank):
            busy += int((end - start).sum())
            span += int(end[-1] - start[0])
            intervals.append(np.stack([start, end], axis=1) / SECOND)
        return BusyTime(busy / SECOND, span / SECOND, np.concatenate(intervals))

    def idle_gaps(self, rank: str | None = None) -> tuple[Floats, Floats]:
        """Return starts and durations of the stretches without work between the first and the last of it."""
        starts, durations = [np.empty(0)], [np.empty(0)]
        for start, end in self._work(rank):
            starts.append(end[:-1] / SECOND)
            durations.append((start[1:] - end[:-1]) / SECOND)
        return np.concatenate(starts), np.concatenate(durations)

    def launch_delays(self) -> Floats:
        """Return for each kernel the seconds from the end of its launch on the CPU to its start."""
        kernels, launches = launched(self.events)
        delays: Floats = np.maximum(self.events.start[kernels] - self.events.end[launches], 0) / SECOND
        return delays

    def memory(self) -> tuple[Floats, Integers]:
        """Return times and allocated bytes: of the device, or of the CPU if there is none."""
        on_device = any(event.device_type > 0 for event in self.memory_events)
        chosen = sorted(event for event in self.memory_events if (event.device_type > 0) == on_device)
        times = np.array([event.time for event in chosen], np.int64) / SECOND
        sizes = np.array([event.size for event in chosen], np.int64)
        allocated = np.array([event.allocated for event in chosen], np.int64)
        known = len(allocated) > 0 and bool((allocated >= 0).all())
        return times, allocated if known else np.cumsum(sizes)

    @cached_property
    def _self_times(self) -> Integers:
        """Time of each slice of the CPU without those inside of it."""
        events = self.events
        nested = np.flatnonzero(events.of("cpu_op", "user_annotation", *RUNTIME_CATEGORIES))
        nested = nested[np.argsort(events.thread[nested], kind="stable")]
        own = events.duration.copy()
        own[nested] = self_times(events.thread[nested], events.start[nested], events.end[nested])
        return own

    def _sums(self, chosen: Flags, *columns: Integers) -> Iterator[tuple[str, int, list[float]]]:
        """Give for each name that is there the number of its events, and sums of columns in seconds."""
        numbers, size = self.events.name[chosen], len(self.names)
        counts = np.bincount(numbers, minlength=size)
        sums = [np.bincount(numbers, column[chosen], size) / SECOND for column in columns]
        for number in np.flatnonzero(counts).tolist():
            yield self.names[number], int(counts[number]), [float(column[number]) for column in sums]

    def _work(self, rank: str | None) -> Iterator[tuple[Integers, Integers]]:
        """Give the stretches with work of each rank, or of each device of a rank."""
        events = self.events
        working = events.of(*(DEVICE_CATEGORIES if self.on_gpu else ("cpu_op",)))
        wanted = range(len(self.ranks)) if rank is None else [self._rank(rank)]
        # A process of a device is a number for each device of a rank; the CPU is one for all its threads.
        keys = [(thread.rank, thread.process if self.on_gpu else "") for thread in events.threads]
        for key in dict.fromkeys(keys):
            if key[0] in wanted:
                threads = [number for number, one in enumerate(keys) if one == key]
                chosen = working & np.isin(events.thread, threads)
                if chosen.any():
                    yield union(events.start[chosen], events.end[chosen])

    def _rank(self, rank: str) -> int:
        if rank not in self.ranks:
            raise ArgumentValueError(
                f"The trace has no rank {rank!r}", hint=f"Its ranks are {', '.join(self.ranks)}."
            )
        return self.ranks.index(rank)
