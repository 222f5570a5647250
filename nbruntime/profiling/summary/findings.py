"""What slowed a stretch of work down: each finding is a sentence with figures and the time it explains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median_high

from nbruntime.display.html import shortened
from nbruntime.display.numbers import duration, percent, rate, token_count
from nbruntime.profiling.figures import Distribution, Figures
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.records import RequestRecord
from nbruntime.profiling.summary.time_shares import TimeShares, steps_during
from nbruntime.profiling.summary.waits import Wait, waits

WAITED = 0.25
"""A request waited if its queue took this part of its time to the first token, or more."""

LEAST_WAIT = 0.02
"""Part of the time of all requests that the waiting took, from which it is named."""

BLAMED = 0.5
"""It waited behind one request if that one's prefill took this part of its queue, or more."""

CLIENT_IDLE = 0.3
"""Part of the wall without a request from which the client counts as the limit."""

STALLED = 0.15
"""Part of the decode time in which other prompts were computed, from which it is named."""

GAPS = 0.2
"""Part of the time between steps, with requests open, from which it is named."""

CACHE_FULL = 0.95
"""Used part of the KV cache from which it counts as full."""

FEW_HITS, MANY_HITS = 0.1, 0.5
"""Parts of the prompt tokens from the cache between which hits are not worth a sentence."""

FEWEST_PROMPT_TOKENS = 200
"""Prompt tokens of all requests from which hits are worth a sentence."""

OUTLIER = 3.0
"""A request is an outlier if it took this many times the median, and twice the next one."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A sentence, and the part of the time that it explains, from 0 to 1; the largest come first."""

    weight: float
    sentence: str


@dataclass(frozen=True)
class Evidence:
    """What findings are made from."""

    data: ProfileData
    figures: Figures
    shares: TimeShares
    waits: list[Wait]


def findings(data: ProfileData, figures: Figures, shares: TimeShares) -> list[Finding]:
    """Return the findings of a profile, the one that explains the most time first."""
    evidence = Evidence(data, figures, shares, waits(data))
    found = [finding for find in _FINDERS for finding in find(evidence)]
    return sorted(found, key=lambda finding: -finding.weight)


def _failures(evidence: Evidence) -> Iterator[Finding]:
    failed = [each for each in evidence.figures.requests if each.status == "failed"]
    if not failed:
        return
    kinds = Counter(shortened(each.error.partition(":")[0], 60) or "unknown error" for each in failed)
    named = ", ".join(
        f"{kind} ({count:,})" if len(kinds) > 1 else kind for kind, count in kinds.most_common(3)
    )
    # Failures come first: other figures mean little if requests fail.
    yield Finding(2.0, f"{_of(len(failed), evidence.figures)} failed: {named}.")


def _client(evidence: Evidence) -> Iterator[Finding]:
    idle = evidence.shares.no_request
    if idle < CLIENT_IDLE:
        return
    took = duration(idle * evidence.shares.wall, digits=2)
    yield Finding(
        1 + idle,
        f"The client was the limit: for {percent(idle)} of the time ({took}) it had no request open.",
    )


def _queue(evidence: Evidence) -> Iterator[Finding]:
    queued = _queue_times(evidence)
    waited = [
        (request, wait)
        for request, wait in queued
        if wait >= WAITED * (request.e2e if request.ttft is None else request.ttft)
    ]
    total = sum(request.e2e for request, _ in queued)
    weight = sum(wait for _, wait in waited) / total if total > 0 else 0.0
    if weight < LEAST_WAIT:
        return
    median = Distribution(wait for _, wait in waited).median or 0.0
    rids = {request.rid for request, _ in waited}
    blamed = Counter(
        wait.behind
        for wait in evidence.waits
        if wait.behind and wait.request.rid in rids and wait.behind_seconds >= BLAMED * wait.queued
    )
    requests = {each.rid: each for each in evidence.figures.requests}
    count = len(waited)
    many = _of(count, evidence.figures)
    behind = ""
    if blamed:
        culprit, blamed_count = blamed.most_common(1)[0]
        part = "" if blamed_count == count else f", {blamed_count:,} of them"
        behind = f"{part} behind {_described(requests.get(culprit))}"
    at = duration(median, digits=2) + (" at the median" if count > 1 else "")
    yield Finding(weight, f"{many} waited{behind} ({at}){_limit(evidence)}.")


def _gaps(evidence: Evidence) -> Iterator[Finding]:
    gaps = evidence.shares.other
    if evidence.shares.source != "steps" or gaps < GAPS:
        return
    yield Finding(
        gaps,
        f"For {percent(gaps)} of the time requests were open, but the server ran no step: "
        "that is network, tokenizer or scheduler.",
    )


def _stalls(evidence: Evidence) -> Iterator[Finding]:
    decode = sum(wait.decode for wait in evidence.waits)
    stalled = sum(wait.stalled for wait in evidence.waits)
    if decode <= 0 or stalled < STALLED * decode:
        return
    total = sum(wait.request.e2e for wait in evidence.waits)
    yield Finding(
        stalled / total,
        f"Prefill of other requests held up decode for {percent(stalled / decode)} of its time.",
    )


def _full_cache(evidence: Evidence) -> Iterator[Finding]:
    by_steps = {rid for step in evidence.data.steps for rid in step.retracted}
    retracted = [each for each in evidence.figures.requests if each.retractions or each.rid in by_steps]
    usage = [sample.load.token_usage for sample in evidence.data.samples]
    used = max((each for each in usage if each is not None), default=0.0)
    if retracted:
        number = len(retracted)
        put_back = (
            f"{_of(number, evidence.figures)} {'was' if number == 1 else 'were'} put back into the queue"
        )
        total = sum(each.e2e for each in evidence.figures.requests)
        weight = sum(each.e2e for each in retracted) / total if total > 0 else 0.0
        yield Finding(weight + 0.05, f"{put_back}, as the KV cache was full.")
    elif used >= CACHE_FULL:
        full = sum(each is not None and each >= CACHE_FULL for each in usage) / len(usage)
        waiting = any(
            (sample.load.token_usage or 0.0) >= CACHE_FULL and sample.load.num_waiting_reqs
            for sample in evidence.data.samples
        )
        yield Finding(
            full, f"The KV cache was {percent(used)} full{' while requests were queued' if waiting else ''}."
        )


def _cache_hits(evidence: Evidence) -> Iterator[Finding]:
    hits, prefill = evidence.figures.cache_hit_share, evidence.shares.prefill or 0.0
    tokens = token_count(evidence.figures.prompt_tokens)
    if hits is None or evidence.figures.prompt_tokens < FEWEST_PROMPT_TOKENS:
        return
    if hits < FEW_HITS and prefill >= 0.3 and len(evidence.figures.requests) > 1:
        few = f"Only {percent(hits)}" if hits else "None"
        yield Finding(0.5 * prefill, f"{few} of the {tokens} of the prompts came from the cache.")
    elif hits >= MANY_HITS:
        yield Finding(0.02, f"{percent(hits)} of the {tokens} of the prompts came from the cache.")


def _one_at_a_time(evidence: Evidence) -> Iterator[Finding]:
    figures, decode = evidence.figures, evidence.shares.decode or 0.0
    steps = [
        step for step in steps_during(evidence.data, figures) if not step.is_prefill and step.duration > 0
    ]
    if len(figures.measured) < 2 or not steps or decode < 0.3:
        return
    mean = sum(step.batch_size * step.duration for step in steps) / sum(step.duration for step in steps)
    if mean < 1.5:
        yield Finding(
            0.5 * decode,
            f"A decode step held {mean:.1f} requests on average; requests sent at once would share steps.",
        )


def _outlier(evidence: Evidence) -> Iterator[Finding]:
    figures = evidence.figures
    if len(figures.measured) < 4:
        return
    *_, second, slowest = sorted(figures.measured, key=lambda each: each.e2e)
    median = figures.e2e.median or 0.0
    if slowest.e2e < OUTLIER * median or slowest.e2e < 2 * second.e2e:
        return
    times = f"{rate(slowest.e2e / median)} times the median" if median > 0 else "the others took no time"
    yield Finding(
        slowest.e2e / figures.wall,
        f"One request took {duration(slowest.e2e)}, {times}: {_cause(slowest, evidence)}.",
    )


_FINDERS: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    _failures,
    _client,
    _queue,
    _gaps,
    _stalls,
    _full_cache,
    _cache_hits,
    _one_at_a_time,
    _outlier,
)


def _queue_times(evidence: Evidence) -> list[tuple[RequestRecord, float]]:
    """Return the seconds in the queue of each finished request for which they are known."""
    by_steps = {(wait.request.rid, wait.request.index): wait.queued for wait in evidence.waits}
    found = []
    for each in evidence.figures.measured:
        phases = evidence.data.phases(each)
        if (each.rid, each.index) in by_steps:
            found.append((each, by_steps[each.rid, each.index]))
        elif phases.prefill is not None and phases.received is not None:
            found.append((each, max(phases.prefill - phases.received, 0.0)))
    return found


def _limit(evidence: Evidence) -> str:
    """Name the server's limit of running requests if it was reached while others waited."""
    for sample in evidence.data.samples:
        load = sample.load
        most = load.max_running_requests
        if most and (load.num_waiting_reqs or 0) > 0 and (load.num_running_reqs or 0) >= most:
            return f"; the server runs at most {most:,} at once"
    return ""


def _described(request: RequestRecord | None) -> str:
    if request is None:
        return "another client's request"
    computed = request.new_prompt_tokens  # unknown of a request that has not ended
    return f"one of {token_count(computed)}" if computed else "another"


def _cause(slowest: RequestRecord, evidence: Evidence) -> str:
    """Say what is special about the slowest request."""
    figures = evidence.figures
    median = median_high(each.completion_tokens for each in figures.measured)
    prompt = median_high(each.new_prompt_tokens for each in figures.measured)
    queued = next((wait for request, wait in _queue_times(evidence) if request is slowest), 0.0)
    if queued >= 0.5 * slowest.e2e:
        return f"it waited for {duration(queued, digits=2)}"
    if slowest.retractions:
        return "the server put it back into the queue"
    if slowest.completion_tokens >= 2 * max(median, 1):
        return f"it generated {token_count(slowest.completion_tokens)}, the median is {median:,}"
    if slowest.new_prompt_tokens >= 2 * max(prompt, 1):
        return f"its prompt had {token_count(slowest.new_prompt_tokens)} to compute, the median is {prompt:,}"
    return "neither its tokens nor its wait explain it"


def _of(count: int, figures: Figures) -> str:
    total = len(figures.requests)
    if total == 1:
        return "The request"
    every = "Both requests" if total == 2 else f"All {total:,} requests"
    return every if count == total else f"{count:,} of {total:,} requests"
