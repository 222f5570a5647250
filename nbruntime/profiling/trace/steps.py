"""Finds the steps of a server in its traces, and to which of them an event belongs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nbruntime.profiling.trace.events import DEVICE_CATEGORIES, RUNTIME_CATEGORIES, Events, Flags, Integers
from nbruntime.protocol.step_log import Step

SECOND = 1e9
"""Nanoseconds."""

_SPAN = re.compile(r"step\[(\w+) bs=(\d+)(?: toks=(\d+))?")
_QUERIES = re.compile(r"\b[cg]_sq=(\d+)")  # tokens of a step, with SGLang's detailed_annotations
_NEVER = np.iinfo(np.int64).max
_DEVICE_SPAN = "gpu_user_annotation"


class Span(NamedTuple):
    """A stretch of one rank, in ns."""

    stage: str
    batch_size: int
    tokens: int
    rank: int
    start: int
    end: int


class FoundSteps(NamedTuple):
    """The steps of all ranks by their start, their ranks, and for each event its step or -1."""

    steps: list[Step]
    ranks: npt.NDArray[np.int32]
    step_of: npt.NDArray[np.int32]


def read_span(name: str) -> tuple[str, int, int] | None:
    """Read stage, batch size and tokens from the name of a span; None if it is not a step's.

    Without a number of tokens, each sequence has one.

    Examples
    --------
    >>> read_span("step[EXTEND bs=3 toks=512]"), read_span("step[VERIFY bs=2 g_sq=8 g_sk=90]")
    (('EXTEND', 3, 512), ('VERIFY', 2, 8))
    """
    found = _SPAN.match(name)
    if found is None:
        return None
    batch_size = int(found[2])
    if found[3]:
        return found[1], batch_size, int(found[3])
    queries = [int(number) for number in _QUERIES.findall(name)]
    return found[1], batch_size, sum(queries) if queries else batch_size


def spans_of(events: Events) -> tuple[list[Span], bool]:
    """Return the spans of steps on the CPU; or those on the device, and True, if there are none."""
    named = {number: span for number, name in enumerate(events.names) if (span := read_span(name))}
    is_span = np.isin(events.name, list(named))
    on_host = is_span & ~events.of(_DEVICE_SPAN)
    chosen = np.flatnonzero(on_host if on_host.any() else is_span)
    columns = (events.name, events.rank, events.start, events.start + events.duration)
    rows = zip(*(column[chosen].tolist() for column in columns), strict=True)
    spans = [Span(*named[name], rank, start, end) for name, rank, start, end in rows]
    return spans, not on_host.any()


def find_steps(events: Events, spans: Sequence[Span], *, on_device: bool) -> FoundSteps:
    """Assign the events to spans, and make steps of these.

    A kernel belongs to the step that launched it, also if it runs later. A step with kernels lasts from the
    start of the first to the end of the last of them, any other one as its span.

    Parameters
    ----------
    events : Events
        Of all ranks.
    spans : sequence of Span
        In any order.
    on_device : bool
        Whether the spans are times of the device, so that they hold kernels, too.
    """
    spans = sorted(spans, key=lambda span: (span.start, -span.end))
    span_of = _span_by_time(events, spans)
    if not on_device:
        kernels, launches = launched(events)
        span_of[events.of(*DEVICE_CATEGORIES)] = -1
        span_of[kernels] = span_of[launches]
    start, end = _extents(events, spans, span_of)
    order = np.argsort(start, kind="stable")
    place_of = np.empty(len(spans) + 1, np.int32)
    place_of[order] = np.arange(len(spans))
    place_of[-1] = -1  # what belongs to no span
    lasting = zip(start[order].tolist(), end[order].tolist(), (spans[one] for one in order), strict=True)
    return FoundSteps(
        [
            Step(span.stage, begin / SECOND, (stop - begin) / SECOND, span.batch_size, span.tokens)
            for begin, stop, span in lasting
        ],
        np.array([spans[one].rank for one in order], np.int32),
        place_of[span_of],
    )


def _span_by_time(events: Events, spans: Sequence[Span]) -> npt.NDArray[np.int32]:
    """Return for each event the innermost span of its rank in which it begins, or -1."""
    span_of = np.full(len(events), -1, np.int32)
    for rank in {span.rank for span in spans}:
        places = np.flatnonzero(events.rank == rank)
        starts = events.start[places]
        for number, span in enumerate(spans):  # an inner span comes after its outer one
            if span.rank == rank:
                first, last = np.searchsorted(starts, (span.start, span.end))
                span_of[places[first:last]] = number
    return span_of


def _extents(
    events: Events, spans: Sequence[Span], span_of: npt.NDArray[np.int32]
) -> tuple[Integers, Integers]:
    """Return begins and ends of spans: of their kernels if they have any."""
    start = np.array([span.start for span in spans], np.int64)
    end = np.array([span.end for span in spans], np.int64)
    kernels = np.flatnonzero(events.of(*DEVICE_CATEGORIES) & (span_of >= 0))
    first, last = np.full(len(spans), _NEVER), np.full(len(spans), -_NEVER)
    np.minimum.at(first, span_of[kernels], events.start[kernels])
    np.maximum.at(last, span_of[kernels], events.end[kernels])
    return np.where(first < _NEVER, first, start), np.where(first < _NEVER, last, end)


def launched(events: Events) -> tuple[Integers, Integers]:
    """Return the places of what ran on a device, and of the calls that launched it, by their correlation.

    All kernels of a CUDA graph have one launch. Of several launches with one number the last one before the
    kernel counts; else the next one, as the device's clock may be a little behind.
    """
    is_launch = events.of(*RUNTIME_CATEGORIES)
    places = np.flatnonzero((is_launch | events.of(*DEVICE_CATEGORIES)) & (events.correlation > 0))
    if not len(places):
        return places, places
    rank, correlation = events.rank[places], events.correlation[places]
    order = np.lexsort((correlation, rank))  # inside of them by start
    places, rank, correlation = places[order], rank[order], correlation[order]
    group = np.cumsum((np.diff(rank, prepend=rank[0]) != 0) | (np.diff(correlation, prepend=0) != 0))
    launch, number = is_launch[places], np.arange(len(places))
    before = np.maximum.accumulate(np.where(launch, number, 0))
    after = np.minimum.accumulate(np.where(launch, number, number[-1])[::-1])[::-1]

    def fits(other: Integers) -> Flags:
        both: Flags = launch[other] & (group[other] == group)
        return both

    chosen = np.where(fits(before), before, after)
    found = ~launch & fits(chosen)
    return places[found], places[chosen[found]]
