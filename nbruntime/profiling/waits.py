"""Who waited behind whom, read from the server's steps."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nbruntime.profiling.records import RequestRecord
from nbruntime.profiling.time_shares import is_prefill
from nbruntime.protocol.step_log import Step


@dataclass(frozen=True, slots=True)
class Wait:
    """What one request waited for, in seconds.

    Parameters
    ----------
    request : RequestRecord
        The request.
    queued : float
        From its sending to the begin of its first step.
    behind : mapping of str to float
        In this time, the prefill of each other request, by rid.
    decode : float
        From the end of its prompt's last step to its end.
    stalled : float
        In this time, steps that computed other prompts without it.
    stalled_by : mapping of str to float
        The part of each other request in them, by rid.
    """

    request: RequestRecord
    queued: float
    behind: Mapping[str, float]
    decode: float
    stalled: float
    stalled_by: Mapping[str, float]


def waits(requests: Sequence[RequestRecord], steps: Sequence[Step]) -> list[Wait]:
    """Find what each request waited for; requests that no step names are left out."""
    steps = sorted((step for step in steps if step.rids), key=lambda step: step.start)
    starts = [step.start for step in steps]
    longest = max((step.duration for step in steps), default=0.0)
    own_steps: dict[str, list[Step]] = {}
    for step in steps:
        for rid in step.rids:
            own_steps.setdefault(rid, []).append(step)
    found = []
    for request in requests:
        own = own_steps.get(request.rid)
        if not own:
            continue
        first, last = bisect_left(starts, request.sent - longest), bisect_left(starts, request.ended)
        during = steps[first:last]
        computed = max((step.end for step in own if is_prefill(step)), default=own[0].end)
        behind = _prefill_of_others(during, request.rid, request.sent, own[0].start)
        stalled_by = _prefill_of_others(during, request.rid, computed, request.ended)
        found.append(
            Wait(
                request,
                queued=max(own[0].start - request.sent, 0.0),
                behind=behind,
                decode=max(request.ended - computed, 0.0),
                stalled=sum(stalled_by.values()),
                stalled_by=stalled_by,
            )
        )
    return found


def _prefill_of_others(steps: Sequence[Step], rid: str, start: float, end: float) -> dict[str, float]:
    """Divide the prefill without a request in a time among the other requests, by their tokens."""
    by_rid: dict[str, float] = {}
    for step in steps:
        overlap = min(step.end, end) - max(step.start, start)
        if overlap <= 0 or rid in step.rids or not is_prefill(step):
            continue
        known = len(step.rid_tokens) == len(step.rids) and sum(step.rid_tokens) > 0
        tokens = step.rid_tokens if known else (1,) * len(step.rids)
        for other, count in zip(step.rids, tokens, strict=True):
            by_rid[other] = by_rid.get(other, 0.0) + overlap * count / sum(tokens)
    return by_rid
