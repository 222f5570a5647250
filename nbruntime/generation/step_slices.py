"""Divides the time of one request by the server's steps: exactly, its neighbours included."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nbruntime.generation.answer_times import AnswerTimes
from nbruntime.generation.explanation import PartKind
from nbruntime.generation.time_slices import Slice, before_forward, tokens_of
from nbruntime.protocol.step_log import Step

_SAME_CLOCK = 0.05
"""Seconds; most that the start of a step may differ from the server's time of it."""


def slices_by_steps(answer: AnswerTimes, steps: Sequence[Step]) -> list[Slice] | None:
    """Divide a request's time on the server, in the order of time; None if the steps do not hold all of it.

    Only differences of the server's own times are used, so the clock of `steps` may be another one. The time
    between two steps counts as the later one's: planning belongs to a step.
    """
    if answer.entered is None:
        return _never_computed(answer, steps)
    first = _first_step(answer, answer.entered, steps)
    if first is None:
        return None
    begin = steps[first].start
    end = begin + (math.inf if answer.computing is None else answer.computing)
    queued = [step for step in steps[:first] if step.end > begin - answer.queue_time]
    walk = _Walk(answer)
    for step in steps[first:]:
        if step.start >= end:
            break
        walk.add(step, begin, min(step.end, end))
        begin = max(begin, min(step.end, end))
    if not walk.complete:
        return None
    slices = [*before_forward(answer, queued), *walk.slices]
    if answer.finished is not None:
        slices.append(Slice("server", max(end - begin, 0.0)))  # to detokenize, and to pass it on
    return slices


def _first_step(answer: AnswerTimes, entered: float, steps: Sequence[Step]) -> int | None:
    """Return the place of its first step: by the same clock the nearest, as a rid may be used again."""
    own = [place for place, step in enumerate(steps) if answer.rid in step.rids and step.stage != "DECODE"]
    if not own:
        return None
    nearest = min(own, key=lambda place: abs(steps[place].start - entered))
    return nearest if abs(steps[nearest].start - entered) < _SAME_CLOCK else own[0]


def _never_computed(answer: AnswerTimes, steps: Sequence[Step]) -> list[Slice] | None:
    """Divide the time of a request that ended in the queue."""
    received, finished = answer.received, answer.finished
    if received is None or finished is None or answer.completion_tokens:
        return None
    meanwhile = tuple(step for step in steps if step.end > received and step.start < finished)
    return [Slice("queue", max(finished - received, 0.0), meanwhile)]


class _Walk:
    """The steps of a request and of its neighbours, from its first one on."""

    def __init__(self, answer: AnswerTimes) -> None:
        self.slices: list[Slice] = []
        self._answer = answer
        self._own = 0  # slices up to the request's last step
        self._prefilled = 0  # tokens
        self._decoded = 0
        self._retracted = False

    def add(self, step: Step, begin: float, end: float) -> None:
        """Add the time from the end of the step before to the end of this one."""
        kind = self._kind(step)
        if end > begin:
            self.slices.append(Slice(kind, end - begin, (step,)))
        if self._answer.rid in step.rids:
            self._own = len(self.slices)

    def _kind(self, step: Step) -> PartKind:
        rid = self._answer.rid
        self._retracted |= rid in step.retracted
        if rid not in step.rids:
            if self._retracted:
                return "retraction"
            return "turns" if step.stage == "DECODE" else "stall"
        if step.stage == "DECODE":
            self._decoded += 1
            self._retracted = False
            return "decode"
        again = self._decoded > 0 or self._prefilled >= self._needed
        if again:  # it was retracted, though an older log may not say so
            self.slices[self._own :] = [
                Slice("retraction", each.seconds, each.steps) for each in self.slices[self._own :]
            ]
        self._prefilled += tokens_of(step, rid)
        self._retracted = False
        return "retraction" if again else "prefill"

    @property
    def _needed(self) -> int:
        return max(self._answer.new_prompt_tokens, 1)

    @property
    def complete(self) -> bool:
        """Whether all tokens that the request is known to have were computed in these steps."""
        # Computing a retracted request again gives it a token, too.
        decoded = self._decoded + self._answer.retractions
        prefilled = self._answer.ended_in_prefill or self._prefilled >= self._needed
        return prefilled and decoded >= self._answer.decoded_tokens
