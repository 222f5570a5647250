"""Explains one request of a profile, as `Generation.explain` does an answer."""

from __future__ import annotations

import msgspec

from nbruntime.errors import ArgumentTypeError, ArgumentValueError
from nbruntime.generation.answer_times import AnswerTimes
from nbruntime.generation.explaining import explain
from nbruntime.generation.explanation import Explanation
from nbruntime.generation.step_source import UNKNOWN
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.records import RequestRecord
from nbruntime.protocol.nearest_names import nearest_name
from nbruntime.protocol.step_log import Step

_HINT = "Give one of profile.requests, or its rid, such as answer.rid."


def explain_request(data: ProfileData, request: RequestRecord | str) -> Explanation:
    """Tell why a request of a profile took so long; errors as in `Profile.explain`."""
    record = _named(data, request) if isinstance(request, str) else request
    if not isinstance(record, RequestRecord):
        raise ArgumentTypeError(f"The request is a {type(record).__name__}", where="request", hint=_HINT)
    notes = []
    if record.server_times and not any(step.rids for step in data.steps):
        notes.append(f"The profile holds no steps with the names of their requests, so {UNKNOWN}.")
    return explain(_times(data, record), [] if notes else _steps(data, record), notes)


def _named(data: ProfileData, rid: str) -> RequestRecord:
    found = [each for each in data.requests if each.rid == rid]
    if len(found) == 1:
        return found[0]
    if found:
        raise ArgumentValueError(
            f"The profile has {len(found)} requests of the name {rid!r}",
            where="request",
            hint="Give one of profile.requests.",
        )
    nearest = nearest_name(rid, {each.rid for each in data.requests})
    raise ArgumentValueError(
        f"The profile has no request {rid!r}",
        where="request",
        hint=f"Did you mean {nearest!r}?" if nearest else _HINT,
    )


def _times(data: ProfileData, request: RequestRecord) -> AnswerTimes:
    together = [each for each in data.requests if each.sent == request.sent and each.route == request.route]
    return AnswerTimes(
        rid=request.rid,
        total=None if request.status == "running" else request.e2e,
        ttft=request.ttft,
        last_arrival=request.arrivals[-1][0] if request.arrivals else None,
        server_times=request.server_times,
        prompt_tokens=request.prompt_tokens,
        cached_tokens=request.cached_tokens,
        completion_tokens=request.completion_tokens,
        retractions=request.retractions,
        siblings=max(len(together) - 1, 0),
    )


def _steps(data: ProfileData, request: RequestRecord) -> list[Step]:
    """Return the steps of the time of a request, by the server's clock."""
    return [
        msgspec.structs.replace(step, start=step.start + data.clock_offset)
        for step in data.steps
        if step.end >= request.sent and step.start <= request.ended
    ]
