"""Who waited behind whom, read from the server's steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.records import RequestRecord
from nbruntime.protocol.step_log import Step


@dataclass(frozen=True, slots=True)
class Wait:
    """What one request waited for, in seconds.

    Parameters
    ----------
    request : RequestRecord
        The request.
    queued : float
        From the server's receiving it, or if that is unknown its sending, to the begin of its first step.
    behind : str
        The request whose prefill took the most of this time, by rid; empty if there was none.
    behind_seconds : float
        That time.
    decode : float
        From the end of its prompt's last step to its end.
    stalled : float
        In this time, steps that computed other prompts without it.
    """

    request: RequestRecord
    queued: float
    behind: str
    behind_seconds: float
    decode: float
    stalled: float


def waits(data: ProfileData) -> list[Wait]:
    """Find what each request waited for; requests that no step names are left out."""
    steps = sorted((step for step in data.steps if step.rids), key=lambda step: step.start)
    own_steps: dict[str, list[int]] = {}
    for number, step in enumerate(steps):
        for rid in step.rids:
            own_steps.setdefault(rid, []).append(number)
    prefill = _Prefill(steps)
    found = []
    for request in data.requests:
        own = own_steps.get(request.rid)
        if not own:
            continue
        first = steps[own[0]].start
        received = data.phases(request).received or request.sent
        behind, behind_seconds = prefill.most(received, first, own)
        prompt_ends = (steps[at].end for at in own if steps[at].is_prefill_of(request.rid))
        computed = max(prompt_ends, default=first)
        found.append(
            Wait(
                request,
                queued=max(first - received, 0.0),
                behind=behind,
                behind_seconds=behind_seconds,
                decode=max(request.ended - computed, 0.0),
                stalled=prefill.total(computed, request.ended, own),
            )
        )
    return found


class _Prefill:
    """The prefill of all requests, as columns: a row for each request of each step that computed prompts."""

    def __init__(self, steps: Sequence[Step]) -> None:
        rows = [
            (number, step.start, step.end, rid, share)
            for number, step in enumerate(steps)
            if step.is_prefill
            for rid, share in zip(step.rids, _shares(step), strict=True)
        ]
        self.rids = list(dict.fromkeys(rid for _, _, _, rid, _ in rows))
        numbers = {rid: number for number, rid in enumerate(self.rids)}
        self._step = np.array([number for number, *_ in rows], np.int64)
        self._start = np.array([start for _, start, _, _, _ in rows], np.float64)
        self._end = np.array([end for _, _, end, _, _ in rows], np.float64)
        self._rid = np.array([numbers[rid] for _, _, _, rid, _ in rows], np.int64)
        self._share = np.array([share for *_, share in rows], np.float64)
        self._longest = float(np.max(self._end - self._start, initial=0.0))

    def most(self, start: float, end: float, own: Sequence[int]) -> tuple[str, float]:
        """Return the request whose prefill took the most of a time, without the steps `own`, and how much."""
        rows, seconds = self._overlaps(start, end, own)
        if not len(seconds):
            return "", 0.0
        sums = np.bincount(self._rid[rows], seconds)
        largest = int(np.argmax(sums))
        return (self.rids[largest], float(sums[largest])) if sums[largest] > 0 else ("", 0.0)

    def total(self, start: float, end: float, own: Sequence[int]) -> float:
        """Return how much of a time was prefill without the steps `own`."""
        _, seconds = self._overlaps(start, end, own)
        return float(seconds.sum())

    def _overlaps(self, start: float, end: float, own: Sequence[int]) -> tuple[slice, NDArray[np.float64]]:
        """Return the rows that may lie in a time, and the seconds that each does."""
        first, last = np.searchsorted(self._start, (start - self._longest, end))
        rows = slice(int(first), int(last))
        inside = np.minimum(self._end[rows], end) - np.maximum(self._start[rows], start)
        seconds = np.maximum(inside, 0.0) * self._share[rows]
        seconds[np.isin(self._step[rows], own)] = 0.0
        return rows, seconds


def _shares(step: Step) -> list[float]:
    """Divide a step among its requests, by their tokens."""
    total = sum(step.rid_tokens)
    if len(step.rid_tokens) != len(step.rids) or total <= 0:
        return [1 / len(step.rids)] * len(step.rids)
    return [tokens / total for tokens in step.rid_tokens]
