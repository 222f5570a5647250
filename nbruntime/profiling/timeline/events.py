"""The events of a profile's timeline: its requests, the server's load and its steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.records import RequestRecord
from nbruntime.profiling.request_bars import request_bars
from nbruntime.profiling.timeline.lanes import lanes
from nbruntime.protocol.step_log import Step

CLIENT, SERVER_STEPS, FIRST_RANK = 1, 2, 10
"""Process ids in the timeline; those of the ranks count on from the last one."""

_COUNTERS = {
    "requests": {"running": "num_running_reqs", "queued": "num_waiting_reqs"},
    "KV cache, tokens": {"used": "num_used_tokens"},
    "tokens/s": {"generated": "gen_throughput"},
}
"""Counters of the load, and the fields of `Load` that they draw."""

encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """One event of a Chrome trace.

    Parameters
    ----------
    at : int
        Nanoseconds since the begin of the timeline.
    fields : dict
        The rest of the event, by the names of the Chrome trace format.
    length : int
        Nanoseconds of a slice.
    """

    at: int
    fields: dict[str, Any] = field(default_factory=dict)
    length: int = 0

    @property
    def order(self) -> tuple[int, int]:
        """Sorts events by their begin, outer slices first."""
        return self.at, -self.length

    def json(self) -> bytes:
        """Return it as JSON; times are in microseconds there."""
        times = {"ts": self.at / 1000}
        if self.fields["ph"] == "X":
            times["dur"] = self.length / 1000
        return encode({**self.fields, **times})


@dataclass(frozen=True, slots=True)
class Clock:
    """Turns Unix times into nanoseconds since the begin of the timeline."""

    begin: float

    def __call__(self, at: float) -> int:
        """Return nanoseconds; the order of times stays."""
        return round((at - self.begin) * 1e9)


def begin_of(data: ProfileData) -> float:
    """Return the Unix time of the first thing that a profile has."""
    times = [each.sent for each in data.requests] + [step.start for step in data.steps]
    times += [sample.at for sample in data.samples]
    return min([*times, *([data.started] if data.started or not times else [])])


def process_names(process: int, name: str, threads: Mapping[int, str]) -> Iterator[dict[str, Any]]:
    """Return the events that name a process and its threads, and set their order."""
    for kind, value in (("process_name", {"name": name}), ("process_sort_index", {"sort_index": process})):
        yield {"ph": "M", "pid": process, "tid": 0, "name": kind, "args": value}
    for thread, label in threads.items():
        for kind, value in (
            ("thread_name", {"name": label}),
            ("thread_sort_index", {"sort_index": thread}),
        ):
            yield {"ph": "M", "pid": process, "tid": thread, "name": kind, "args": value}


def names(data: ProfileData) -> Iterator[dict[str, Any]]:
    """Return the names of the client's and the server's tracks."""
    request_lanes = {lane: f"requests {lane + 1}" for lane in sorted(set(_request_lanes(data)))}
    step_lanes = {lane: f"steps {lane + 1}" if lane else "steps" for lane in sorted(set(_step_lanes(data)))}
    yield from process_names(CLIENT, "client", request_lanes)
    if data.steps:
        yield from process_names(SERVER_STEPS, "server steps", step_lanes)


def events(data: ProfileData, clock: Clock) -> list[TimelineEvent]:
    """Return the slices, counters and flows of a profile, sorted."""
    found = [*_requests(data, clock), *_steps(data, clock), *_flows(data, clock), *_load(data, clock)]
    return sorted(found, key=lambda event: event.order)


def slice_event(clock: Clock, start: float, end: float, **fields: Any) -> TimelineEvent:
    """Return a slice from one Unix time to another."""
    at = clock(start)
    return TimelineEvent(at, {"ph": "X", **fields}, max(clock(end) - at, 0))


def _requests(data: ProfileData, clock: Clock) -> Iterator[TimelineEvent]:
    request_lanes = _request_lanes(data)
    for request, lane in zip(data.requests, request_lanes, strict=True):
        where = {"pid": CLIENT, "tid": lane}
        yield slice_event(
            clock,
            request.sent,
            request.ended,
            name=_name(request),
            cat="request",
            args=_args(request),
            **where,
        )
    bars = request_bars(data)
    reached: dict[int, float] = {}  # a server's times may be out of order
    for row, start, end, part in zip(bars.row, bars.start, bars.end, bars.part, strict=True):
        start, reached[row] = max(start, reached.get(row, start)), max(end, reached.get(row, end))
        where = {"pid": CLIENT, "tid": request_lanes[row]}
        yield slice_event(clock, float(start), float(end), name=str(part), cat="phase", **where)


def _steps(data: ProfileData, clock: Clock) -> Iterator[TimelineEvent]:
    for step, lane in zip(data.steps, _step_lanes(data), strict=True):
        args: dict[str, Any] = {"batch size": step.batch_size, "tokens": step.tokens}
        if step.number >= 0:
            args["number"] = step.number
        if step.rids:
            args["requests"] = ", ".join(step.rids)
        if step.waiting is not None:
            args["waiting"] = step.waiting
        name = f"{step.stage} bs={step.batch_size} toks={step.tokens}"
        where = {"pid": SERVER_STEPS, "tid": lane}
        yield slice_event(clock, step.start, step.end, name=name, cat="step", args=args, **where)


def _flows(data: ProfileData, clock: Clock) -> Iterator[TimelineEvent]:
    """Return an arrow from each request to the first step that computed it."""
    first: dict[str, tuple[Step, int]] = {}
    for step, lane in zip(data.steps, _step_lanes(data), strict=True):
        for rid in step.rids:
            first.setdefault(rid, (step, lane))
    for number, (request, lane) in enumerate(zip(data.requests, _request_lanes(data), strict=True)):
        if request.rid not in first or first[request.rid][0].end < request.sent:
            continue
        step, step_lane = first[request.rid]
        flow = {"name": "request to step", "cat": "flow", "id": number}
        # Half a microsecond inside, so that the arrow binds to its slice and not to a neighbour.
        yield TimelineEvent(clock(request.sent) + 500, {"ph": "s", "pid": CLIENT, "tid": lane, **flow})
        end = {"ph": "f", "bp": "e", "pid": SERVER_STEPS, "tid": step_lane, **flow}
        yield TimelineEvent(max(clock(step.start), clock(request.sent)) + 500, end)


def _load(data: ProfileData, clock: Clock) -> Iterator[TimelineEvent]:
    for sample in data.samples:
        for name, lines in _COUNTERS.items():
            values = {line: getattr(sample.load, attribute) for line, attribute in lines.items()}
            known = {line: value for line, value in values.items() if value is not None}
            if known:
                yield TimelineEvent(
                    clock(sample.at), {"ph": "C", "pid": CLIENT, "tid": 0, "name": name, "args": known}
                )


def _request_lanes(data: ProfileData) -> list[int]:
    return _lanes_of([(each.sent, each.ended) for each in data.requests])


def _step_lanes(data: ProfileData) -> list[int]:
    return _lanes_of([(step.start, step.end) for step in data.steps])


def _lanes_of(spans: Sequence[tuple[float, float]]) -> list[int]:
    order = sorted(range(len(spans)), key=lambda place: spans[place])
    found = [0] * len(spans)
    for place, lane in zip(order, lanes(spans[place] for place in order), strict=True):
        found[place] = lane
    return found


def _name(request: RequestRecord) -> str:
    return f"{request.rid} [{request.index}]" if request.index else request.rid


def _args(request: RequestRecord) -> dict[str, Any]:
    known: Iterable[tuple[str, Any]] = (
        ("prompt tokens", request.prompt_tokens),
        ("cached tokens", request.cached_tokens),
        ("new tokens", request.completion_tokens),
        ("TTFT, ms", None if request.ttft is None else request.ttft * 1000),
        ("TPOT, ms", None if request.tpot is None else request.tpot * 1000),
        ("status", request.status),
        ("finish", request.finish or None),
        ("error", request.error or None),
        ("retractions", request.retractions or None),
    )
    return {name: value for name, value in known if value is not None}
