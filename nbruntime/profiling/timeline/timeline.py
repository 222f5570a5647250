"""Writes a timeline: requests, server steps and a trace on one clock, as a Chrome trace for Perfetto."""

from __future__ import annotations

import gzip
import heapq
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from nbruntime.profiling.files import replacing
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.timeline import events as timeline_events
from nbruntime.profiling.timeline.events import Clock, begin_of, encode
from nbruntime.profiling.timeline.trace_tracks import TraceTracks
from nbruntime.profiling.trace_clock import TraceClock, clock_of_trace


def write_timeline(path: str | os.PathLike[str], data: ProfileData) -> Path:
    """Write the timeline of a profile, compressed if the name ends in ``.gz``, and return the path.

    The requests, the steps that the server logged and, if the profile has one, the trace are on one clock:
    https://ui.perfetto.dev and chrome://tracing open the file. The events of the trace are written one after
    the other, sorted, so that a large one takes no further memory.

    Parameters
    ----------
    path : path
        Name of the file; a file of that name is replaced only by a whole one.
    data : ProfileData
        The profile.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    path = Path(path)
    data = data.snapshot()
    trace = data.trace
    clock = Clock(begin_of(data))
    tracks: TraceTracks | None = None
    said: list[str] = []
    if trace is not None and len(trace.events):
        joined = clock_of_trace(data, trace)
        said = [_how_joined(joined)]
        # Whole nanoseconds: a Unix time in them has more digits than a float.
        first = int(trace.events.start[0])
        clock = Clock(min(clock.begin, first / 1e9 + joined.shift))
        tracks = TraceTracks(trace, clock(first / 1e9 + joined.shift) - first)
    own = ((event.at, -event.length, event.json()) for event in timeline_events.events(data, clock))
    with replacing(path) as file:
        if path.name.endswith(".gz"):
            with gzip.GzipFile(path.name[:-3], "wb", 5, file, mtime=0) as packed:
                _write(packed, data, own, tracks, clock, said)
        else:
            _write(file, data, own, tracks, clock, said)
    return path


def _write(
    file: IO[bytes] | gzip.GzipFile,
    data: ProfileData,
    own: Iterable[tuple[int, int, bytes]],
    tracks: TraceTracks | None,
    clock: Clock,
    said: list[str],
) -> None:
    head = {
        "displayTimeUnit": "ms",
        "baseTimeNanoseconds": round(clock.begin * 1e9),
        "otherData": {"server": data.server, "model": data.model, "notes": [*data.notes, *said]},
    }
    file.write(encode(head)[:-1] + b',"traceEvents":[\n')
    events = own if tracks is None else heapq.merge(own, tracks.events())
    separator = b""
    for part in _lines(data, events, tracks):
        file.write(separator + part)
        separator = b",\n"
    file.write(b"\n]}\n")


def _lines(
    data: ProfileData, events: Iterable[tuple[int, int, bytes]], tracks: TraceTracks | None
) -> Iterator[bytes]:
    yield from map(encode, timeline_events.names(data))
    for _, _, line in events:
        yield line
    if tracks is not None:  # the tracks are known only now
        yield from map(encode, tracks.names())


def _how_joined(clock: TraceClock) -> str:
    match clock.means:
        case "steps":
            return "The trace was put on the client's clock by the steps that it shares with the step log."
        case "time of day":
            return "The trace was put on the client's clock by its own time of day."
        case "begin":
            return "The trace does not say the time of day: it was put at the begin of the profile."
