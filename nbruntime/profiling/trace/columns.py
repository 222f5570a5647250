"""Collects decoded events in columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nbruntime.profiling.trace.decoding import Arguments, Event
from nbruntime.profiling.trace.events import OLD_CATEGORIES, Events, Floats, Integers, Thread

_SKIPPED = frozenset(
    {"python_function", "Trace"}
)  # of no use here; the first are most of a trace with stacks
_LONGEST = 7e15  # µs; a larger time does not fit into the columns, and is none
_LATEST_BASE = 2 * 10**18
_SINCE_1970 = 10**18  # ns; larger times count from 1970, as in traces without a base
_NEVER = 2**63 - 1
_NO_ARGUMENTS = Arguments()
_TYPES = {
    "name": np.int32,
    "category": np.int32,
    "thread": np.int32,
    "start": np.int64,
    "duration": np.int64,
    "correlation": np.int64,
    "stream": np.int64,
}


class Numbering(dict[Any, int]):
    """Gives each key a number when it is first asked for."""

    def __missing__(self, key: Any) -> int:
        number = self[key] = len(self)
        return number

    def of(self, records: Sequence[object], *fields: str) -> npt.NDArray[np.int32]:
        """Return the numbers of the values that each record has in a field, or in several together."""
        keys = map(attrgetter(*fields), records)
        return np.fromiter(map(self.__getitem__, keys), np.int32, len(records))


class MemoryEvent(NamedTuple):
    """An allocation, or a release, whose `size` is negative."""

    time: int  # ns
    size: int
    allocated: int  # bytes of the device after it; -1 if unknown
    device_type: int  # 0 is the CPU
    process: int | str
    rank: int = -1


class FileColumns:
    """The slices and memory events of one file, in ns by the file's own clock.

    Parameters
    ----------
    names, categories : Numbering
        Shared by all files.

    Attributes
    ----------
    threads : Numbering
        Pairs of process and thread.
    phases : Counter
        Numbers of other events by their phase.
    negative, impossible : int
        Numbers of events with a negative duration, taken as 0, and with an impossible time, left out.
    count : int
        Number of slices.
    first, last : int
        Start of the first and end of the last slice.
    """

    def __init__(self, names: Numbering, categories: Numbering) -> None:
        self.threads = Numbering()
        self.phases: Counter[str] = Counter()
        self.negative = 0
        self.impossible = 0
        self.count = 0
        self.first = _NEVER
        self.last = -_NEVER
        self.memory: list[MemoryEvent] = []
        self._names = names
        self._categories = categories
        self._parts: dict[str, list[npt.NDArray[Any]]] = {column: [] for column in _TYPES}

    def add(self, events: Sequence[Event]) -> None:
        """Add a batch of decoded events."""
        slices = [one for one in events if one.ph == "X" and one.cat not in _SKIPPED]
        others = [one for one in events if one.ph != "X"]
        self.phases["X"] += len(events) - len(others)
        self.phases.update(one.ph for one in others)
        self._add_memory([one for one in others if one.name == "[memory]" and abs(one.ts) < _LONGEST])
        start = _column(slices, "ts", np.float64)
        duration = _column(slices, "dur", np.float64)
        possible = (np.abs(start) < _LONGEST) & (np.abs(duration) < _LONGEST)
        if not possible.all():
            slices = [one for one, good in zip(slices, possible, strict=True) if good]
            self.impossible += int((~possible).sum())
            start, duration = start[possible], duration[possible]
        self.negative += int((duration < 0).sum())
        if not slices:
            return
        self.count += len(slices)
        arguments = [one.args or _NO_ARGUMENTS for one in slices]
        columns: dict[str, npt.NDArray[Any]] = {
            "name": self._names.of(slices, "name"),
            "category": self._categories.of(slices, "cat"),
            "thread": self.threads.of(slices, "pid", "tid"),
            "start": nanoseconds(start),
            "duration": nanoseconds(np.maximum(duration, 0)),
            "correlation": _column(arguments, "correlation", np.int64),
            "stream": _column(arguments, "stream", np.int64),
        }
        for column, values in columns.items():
            self._parts[column].append(values)
        self.first = min(self.first, int(columns["start"].min()))
        self.last = max(self.last, int((columns["start"] + columns["duration"]).max()))

    def _add_memory(self, events: Sequence[Event]) -> None:
        times = nanoseconds(_column(events, "ts", np.float64)).tolist()
        for time, one in zip(times, events, strict=True):
            if (args := one.args) is not None:
                event = MemoryEvent(time, args.bytes, args.allocated, args.device_type, one.pid)
                self.memory.append(event)

    def has_name(self, matches: Callable[[str], object]) -> bool:
        """Return whether a slice has a name that matches."""
        numbers = [number for name, number in self._names.items() if matches(name)]
        return any(np.isin(part, numbers).any() for part in self._parts["name"])

    def offset(self, base: int | None) -> int | None:
        """Return what to add to the times to count them from 1970, in ns; None if the trace does not say.

        Parameters
        ----------
        base : int or None
            What the trace says its times count from.
        """
        if self.count and self.first > _SINCE_1970:
            return 0
        return base if base is not None and 0 < base < _LATEST_BASE else None

    def take(self, column: str) -> npt.NDArray[Any]:
        """Join the parts of a column and let them go."""
        parts = self._parts[column]
        joined = np.concatenate([np.empty(0, _TYPES[column]), *parts])
        parts.clear()
        return joined


def _column(records: Sequence[object], field: str, kind: type[Any]) -> npt.NDArray[Any]:
    """Take a field of each record."""
    return np.fromiter(map(attrgetter(field), records), kind, len(records))


def nanoseconds(microseconds: Floats) -> Integers:
    """Convert to whole ns; exact for decimals of three digits up to 100 days, which is what Kineto writes.

    Examples
    --------
    >>> nanoseconds(np.array([5100039518602.149])).tolist()
    [5100039518602149]
    """
    whole = np.floor(microseconds)
    result: Integers = whole.astype(np.int64) * 1000
    result += np.rint((microseconds - whole) * 1000).astype(np.int64)
    return result


class FilePart(NamedTuple):
    """A file that was read, and where it belongs."""

    columns: FileColumns
    ranks: Sequence[int]  # of each of its threads
    offset: int  # ns, to add to its times


def join(parts: Sequence[FilePart], names: Numbering, categories: Numbering) -> Events:
    """Join the columns of files, sorted by start, outer slices first; the files' columns are emptied."""
    threads: list[Thread] = []
    firsts = []  # number of the first thread of each file
    for part in parts:
        firsts.append(len(threads))
        threads += [Thread(rank, *key) for rank, key in zip(part.ranks, part.columns.threads, strict=True)]
    shifts = {"thread": firsts, "start": [part.offset for part in parts]}
    columns: dict[str, npt.NDArray[Any]] = {}
    for column, kind in _TYPES.items():
        taken = [part.columns.take(column) for part in parts]
        for values, shift in zip(taken, shifts.get(column, ()), strict=False):
            values += shift
        columns[column] = taken[0] if len(taken) == 1 else np.concatenate([np.empty(0, kind), *taken])
    order = np.lexsort((-columns["duration"], columns["start"]))
    for column in columns:
        columns[column] = columns[column][order]
    ranks = np.array([thread.rank for thread in threads] or [0], np.int32)
    return Events(
        **columns,
        rank=ranks[columns["thread"]],
        names=list(names),
        categories=[OLD_CATEGORIES.get(category, category) for category in categories],
        threads=threads,
    )
