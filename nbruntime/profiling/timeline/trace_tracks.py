"""The events of a trace in a profile's timeline, as JSON, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from nbruntime.profiling.timeline.events import FIRST_RANK, process_names
from nbruntime.profiling.trace.trace import Trace

ROWS_AT_ONCE = 50_000
"""Rows of the columns that are turned into Python's numbers at once: bounds the memory."""


class TraceTracks:
    """Writes the events of a trace; slices of a thread that overlap, but not wholly, get tracks of their own.

    Parameters
    ----------
    trace : Trace
        The trace.
    shift : int
        Nanoseconds from its clock to that of the timeline.
    """

    def __init__(self, trace: Trace, shift: int) -> None:
        self._trace = trace
        self._shift = shift
        self._open: list[list[list[int]]] = [[] for _ in trace.events.threads]  # ends by thread and lane
        self._tracks: dict[tuple[int, int], int] = {}  # by thread and lane, in the order of appearance

    def events(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield begin, minus length, and JSON of each event, sorted by begin."""
        columns = self._trace.events
        names = [msgspec.json.encode(name) for name in columns.names]
        categories = [msgspec.json.encode(category) for category in columns.categories]
        for first in range(0, len(columns), ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            for name, category, thread, begin, length in zip(
                columns.name[rows].tolist(),
                columns.category[rows].tolist(),
                columns.thread[rows].tolist(),
                (columns.start[rows] + self._shift).tolist(),
                columns.duration[rows].tolist(),
                strict=True,
            ):
                track = self._track(thread, begin, begin + length)
                process = FIRST_RANK + columns.threads[thread].rank
                yield (
                    begin,
                    -length,
                    b'{"name":%b,"cat":%b,"ph":"X","pid":%d,"tid":%d,"ts":%.3f,"dur":%.3f}'
                    % (names[name], categories[category], process, track, begin / 1000, length / 1000),
                )

    def names(self) -> Iterator[dict[str, Any]]:
        """Return the names of the tracks; complete once all events were taken."""
        for rank, label in enumerate(self._trace.ranks):
            threads = {
                track: self._label(thread, lane)
                for (thread, lane), track in self._tracks.items()
                if self._trace.events.threads[thread].rank == rank
            }
            yield from process_names(FIRST_RANK + rank, f"trace {label}".strip(), threads)

    def _label(self, thread: int, lane: int) -> str:
        _, process, number = self._trace.events.threads[thread]
        more = f" ({lane + 1})" if lane else ""
        return f"{process} / {number}{more}"

    def _track(self, thread: int, begin: int, end: int) -> int:
        """Find the first lane of a thread in which a slice lies inside the open ones, or beside them."""
        stacks = self._open[thread]
        lane = 0
        while lane < len(stacks) and not _fits(stacks[lane], begin, end):
            lane += 1
        if lane == len(stacks):
            stacks.append([])
        stacks[lane].append(end)
        return self._tracks.setdefault((thread, lane), len(self._tracks))


def _fits(stack: list[int], begin: int, end: int) -> bool:
    """Close the slices that have ended, and return True if another lies inside the innermost open one."""
    while stack and stack[-1] <= begin:
        stack.pop()
    return not stack or end <= stack[-1]
