"""Where the time went: in prefill, in decode, in the queue, or idle.

The best source that a profile has is taken: the server's steps, else the times that the server gives for each
request, else the client's own times, which cannot tell the queue from prefill.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from nbruntime.profiling.figures import Figures, union_length
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.records import Phases, RequestRecord
from nbruntime.protocol.step_log import Step

Source = Literal["steps", "server times", "client times"]


@dataclass(frozen=True, slots=True)
class TimeShares:
    """Parts of the time, from 0 to 1; None is unknown.

    Parameters
    ----------
    source : str
        ``"steps"``: parts of `window`. Else parts of the time of all finished requests together.
    wall : float
        Seconds from the first sending to the last end.
    window : float
        Seconds of it that the steps cover; a trace may hold a few steps only.
    no_request : float
        Part of `wall` in which the client had no request open.
    prefill, decode : float or None
        Prefill counts wherever a step computed a prompt, also beside decode.
    queue : float or None
        Between the server's receiving a request and its first step; None for steps.
    other : float
        The rest: for steps, the server had requests but ran no step; else client, network and tokenizer.
    before_first_token : float or None
        Of client times: until the first token.
    """

    source: Source
    wall: float
    window: float
    no_request: float
    prefill: float | None = None
    decode: float | None = None
    queue: float | None = None
    other: float = 0.0
    before_first_token: float | None = None


def time_shares(data: ProfileData, figures: Figures) -> TimeShares | None:
    """Divide the time of a profile; None if no time has passed."""
    if figures.wall <= 0:
        return None
    no_request = 1 - figures.active / figures.wall
    return (
        _of_steps(data, figures, no_request)
        or _of_server_times(data, figures, no_request)
        or _of_client_times(figures, no_request)
    )


def steps_during(data: ProfileData, figures: Figures) -> list[Step]:
    """Return the steps that computed something between the first sending and the last end."""
    begin, end = _wall(figures)
    return [step for step in data.steps if step.end > begin and step.start < end and step.stage != "IDLE"]


def _of_steps(data: ProfileData, figures: Figures, no_request: float) -> TimeShares | None:
    steps = steps_during(data, figures)
    if not steps:
        return None
    begin, end = _wall(figures)
    if data.steps_from == "trace":  # before and after it the server may have been busy, too
        begin = max(begin, min(step.start for step in steps))
        end = min(end, max(step.end for step in steps))
    window = end - begin

    def share(spans: Iterable[tuple[float, float]]) -> float:
        return union_length((max(start, begin), min(stop, end)) for start, stop in spans) / window

    busy = share(_spans(steps))
    prefill = share(_spans(step for step in steps if step.is_prefill))
    open_or_busy = share([*_spans(steps), *((each.sent, each.ended) for each in figures.requests)])
    return TimeShares(
        "steps", figures.wall, window, no_request, prefill, busy - prefill, other=open_or_busy - busy
    )


def _wall(figures: Figures) -> tuple[float, float]:
    begin = min((each.sent for each in figures.requests), default=0.0)
    return begin, begin + figures.wall


def _spans(steps: Iterable[Step]) -> list[tuple[float, float]]:
    return [(step.start, step.end) for step in steps]


def _of_server_times(data: ProfileData, figures: Figures, no_request: float) -> TimeShares | None:
    parts = [(data.phases(each), each) for each in figures.measured]
    known = [(phases, each) for phases, each in parts if phases.prefill is not None]
    total = sum(each.e2e for _, each in known)
    if total <= 0 or len(known) * 2 < len(parts):
        return None

    def share(part: Callable[[Phases, RequestRecord], float]) -> float:
        return sum(part(phases, each) for phases, each in known) / total

    queue, prefill, decode = share(_queue), share(_prefill), share(_decode)
    other = max(1 - queue - prefill - decode, 0.0)
    return TimeShares("server times", figures.wall, figures.wall, no_request, prefill, decode, queue, other)


def _queue(phases: Phases, request: RequestRecord) -> float:
    if phases.received is None or phases.prefill is None:
        return 0.0
    return max(phases.prefill - phases.received, 0.0)


def _prefill(phases: Phases, request: RequestRecord) -> float:
    if phases.prefill is None:
        return 0.0
    first = request.sent + request.ttft if request.ttft is not None else None
    end = phases.decode if phases.decode is not None else first
    return max((request.ended if end is None else end) - phases.prefill, 0.0)


def _decode(phases: Phases, request: RequestRecord) -> float:
    if phases.prefill is None:
        return 0.0
    return max(request.e2e - (phases.prefill - request.sent) - _prefill(phases, request), 0.0)


def _of_client_times(figures: Figures, no_request: float) -> TimeShares:
    streamed = [each for each in figures.measured if each.ttft is not None]
    total = sum(each.e2e for each in streamed)
    before = sum(each.ttft or 0.0 for each in streamed) / total if total > 0 else None
    return TimeShares("client times", figures.wall, figures.wall, no_request, before_first_token=before)
