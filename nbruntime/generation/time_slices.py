"""Slices of a server's time for one request, and their sums as the parts of an explanation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from nbruntime.generation.answer_times import AnswerTimes
from nbruntime.generation.explanation import Part, PartKind
from nbruntime.protocol.step_log import Step


@dataclass(frozen=True, slots=True)
class Slice:
    """A stretch of time that belongs to one part; `steps` ran in it."""

    kind: PartKind
    seconds: float
    steps: tuple[Step, ...] = ()


def before_forward(answer: AnswerTimes, queue_steps: Sequence[Step] = ()) -> list[Slice]:
    """Divide the time from receiving a request to its first forward pass."""
    received, entered = answer.received, answer.entered
    if entered is None:
        return []
    waited = answer.queue_time if received is None else max(entered - received, 0.0)
    # A retracted request's time in the queue holds the later waits, too.
    queued = min(answer.queue_time, waited)
    return [Slice("server", waited - queued), Slice("queue", queued, tuple(queue_steps))]


def shorten(slices: Iterable[Slice], seconds: float) -> list[Slice]:
    """Cut slices after a time: the client of a stream that was left did not wait for the rest."""
    kept = []
    for each in slices:
        took = min(each.seconds, seconds)
        if took > 0:
            kept.append(Slice(each.kind, took, each.steps))
            seconds -= took
    return kept


def sums(slices: Iterable[Slice], answer: AnswerTimes) -> list[Part]:
    """Add up slices of the same kind."""
    kinds: dict[PartKind, list[Slice]] = {}
    for each in slices:
        kinds.setdefault(each.kind, []).append(each)
    return [_part(kind, same, answer) for kind, same in kinds.items()]


def merged(parts: Iterable[Part]) -> list[Part]:
    """Add the seconds of later parts to the first one of their kind."""
    kinds: dict[PartKind, Part] = {}
    for each in parts:
        first = kinds.get(each.kind)
        kinds[each.kind] = each if first is None else replace(first, seconds=first.seconds + each.seconds)
    return list(kinds.values())


def _part(kind: PartKind, slices: Sequence[Slice], answer: AnswerTimes) -> Part:
    rid = answer.rid
    steps = [step for each in slices for step in each.steps]
    others = {other for step in steps for other in step.rids if other != rid}
    own_tokens = sum(tokens_of(step, rid) for step in steps)
    other_tokens = sum(step.tokens for step in steps if step.stage != "DECODE")
    sizes = [step.batch_size for step in steps]
    seconds = sum(each.seconds for each in slices)
    if kind == "prefill":
        return Part(
            kind,
            seconds,
            tokens=own_tokens if steps else answer.new_prompt_tokens,
            cached_tokens=answer.cached_tokens,
            requests=len(others),
            other_tokens=other_tokens - own_tokens,
            batch_sizes=_range(sizes),
        )
    if kind == "decode":
        tokens = own_tokens if steps else answer.decoded_tokens
        return Part(kind, seconds, tokens=tokens, requests=len(others), batch_sizes=_range(sizes))
    if kind == "retraction":
        return Part(kind, seconds, tokens=own_tokens, requests=len(others))
    return Part(kind, seconds, requests=len(others), other_tokens=other_tokens)


def _range(sizes: Sequence[int]) -> tuple[int, int] | None:
    return (min(sizes), max(sizes)) if sizes else None


def tokens_of(step: Step, rid: str | None) -> int:
    """Return the number of tokens that a step computed for a request."""
    return sum(count for other, count in zip(step.rids, step.rid_tokens, strict=False) if other == rid)
