"""Puts together what the files of one recording say."""

from __future__ import annotations

from collections.abc import Callable

from nbruntime.errors import TraceError
from nbruntime.profiling.trace.chunks import TraceText
from nbruntime.profiling.trace.columns import FileColumns, FilePart, MemoryEvent, Numbering, join
from nbruntime.profiling.trace.events import DEVICE_CATEGORIES
from nbruntime.profiling.trace.files import TraceFile, rank_label
from nbruntime.profiling.trace.steps import SECOND, Span, find_steps, read_span, spans_of
from nbruntime.profiling.trace.trace import Trace

MOST_EVENTS = 40_000_000
"""A larger trace is read in part: its columns would take more than 2 GB."""

_PHASES = frozenset("XBEIiCbnestfPNODMVvRcaS")
"""What ``ph`` of an event of a Chrome trace may be."""

_PAIRED = frozenset("BEbe")


class Recording:
    """Reads files one after the other, and makes a `Trace` of them."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes
        self._names = Numbering()
        self._categories = Numbering()
        self._ranks = Numbering()
        self._extents: dict[tuple[str, str], list[tuple[int, int]]] = {}
        self._files: list[TraceFile] = []
        self._parts: list[FilePart] = []
        self._memory: list[MemoryEvent] = []
        self._stretches: list[Span] = []
        self._world_size = 0

    def read(self, file: TraceFile, report: Callable[[int], object]) -> None:
        """Read a file; TraceError if there is nothing to read."""
        text = TraceText(file.blocks(report), str(file.path))
        columns = FileColumns(self._names, self._categories)
        room = MOST_EVENTS - sum(part.columns.count for part in self._parts)
        for batch in text.batches():
            columns.add(batch)
            if columns.count >= room:
                self._note(file, f"only its first {columns.count:,} events were read, it has more")
                break
        self._check(file, text, columns)
        offset = columns.offset(text.head.base)
        if offset is None and columns.count:
            self._note(file, "it does not say the time of day; its times begin at an unknown moment")
        rank = self._rank_of(file, text, columns, offset or 0)
        labels = [self._label(process) or rank for process, _ in columns.threads] or [rank]
        ranks = [self._ranks[label] for label in labels][: len(columns.threads)]
        self._files.append(file)
        self._parts.append(FilePart(columns, ranks, offset or 0))
        self._memory += [event._replace(time=event.time + (offset or 0)) for event in columns.memory]
        if text.head.distribution is not None:
            self._world_size = max(self._world_size, text.head.distribution.world_size or 0)
        if file.stage and columns.count and not columns.has_name(read_span):
            start, end = columns.first + (offset or 0), columns.last + (offset or 0)
            self._stretches.append(Span(file.stage, 0, 0, self._ranks[rank], start, end))
            self._note(file, f"it has no steps; it counts as one stretch of {file.stage}")

    def trace(self) -> Trace:
        """Return what was read."""
        events = join(self._parts, self._names, self._categories)
        found = find_steps(events, spans_of(events) + self._stretches)
        if len(events) and not found.steps:
            self.notes.append("The trace has no steps: the server names none in it.")
        self._note_missing_ranks()
        return Trace(
            paths=[file.path for file in self._files],
            ranks=list(self._ranks),
            steps=found.steps,
            on_gpu=bool(events.of(*DEVICE_CATEGORIES).any()),
            duration=float(events.end.max() - events.start[0]) / SECOND if len(events) else 0.0,
            notes=self.notes,
            events=events,
            step_ranks=found.ranks,
            step_of=found.step_of,
            memory_events=self._memory,
        )

    def _check(self, file: TraceFile, text: TraceText, columns: FileColumns) -> None:
        """Note what could not be read; TraceError if nothing could."""
        known = sum(columns.phases[phase] for phase in _PHASES)
        if not known and (columns.phases.total() or text.unreadable):
            raise TraceError("The file is JSON, but holds no events of a trace", where=str(file.path))
        if file.damage:
            self._note(file, f"{file.damage}; what comes before was read")
        elif text.cut_off:
            self._note(file, "it ends in the middle of the events; what comes before was read")
        if not known:
            self._note(file, "it holds no events")
        if text.unreadable:
            self._note(file, f"{_events(text.unreadable)} could not be read")
        if columns.impossible:
            self._note(file, f"{_events(columns.impossible)} without a possible time were left out")
        if columns.negative:
            self._note(file, f"{_events(columns.negative)} of negative duration were taken as 0")
        if paired := sum(columns.phases[phase] for phase in _PAIRED):
            self._note(file, f"{_events(paired)} that mark only a begin or an end were left out")

    def _rank_of(self, file: TraceFile, text: TraceText, columns: FileColumns, offset: int) -> str:
        """Name the rank of a file, a further one if it repeats the time of a file of the same rank."""
        distribution = text.head.distribution
        name = file.rank
        if not name and distribution is not None and distribution.rank is not None:
            name = f"rank {distribution.rank}"
        name = name or file.run or "rank 0"
        if not columns.count:
            return name
        start, end = columns.first + offset, columns.last + offset
        extents = self._extents.setdefault((name, file.stage), [])
        again = 1 + sum(start < other_end and other_start < end for other_start, other_end in extents)
        extents.append((start, end))
        if again == 1:
            return name
        self._note(file, f"rank {name} is there twice at the same time; this one is named {name} ({again})")
        return f"{name} ({again})"

    def _label(self, process: int | str) -> str:
        """Return the rank in a process of a merged trace."""
        return rank_label(process) if isinstance(process, str) and process.startswith("[") else ""

    def _note_missing_ranks(self) -> None:
        here = f"{len(self._ranks)} of them: {', '.join(self._ranks)}"
        numbers = {int(rank[2:]) for rank in self._ranks if rank.startswith("TP") and rank[2:].isdigit()}
        gaps = [f"TP{number}" for number in range(max(numbers, default=0)) if number not in numbers]
        if self._world_size > len(self._ranks):
            self.notes.append(f"The server has {self._world_size} ranks; the trace has {here}.")
        elif gaps:
            self.notes.append(f"Traces of ranks are missing: {', '.join(gaps)}.")

    def _note(self, file: TraceFile, what: str) -> None:
        self.notes.append(f"{file.path.name}: {what}.")


def _events(count: int) -> str:
    return f"{count:,} event" + ("" if count == 1 else "s")
