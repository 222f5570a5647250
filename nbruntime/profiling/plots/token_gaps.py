"""The times between a request's tokens, and what else the server ran in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.records import RequestRecord
from nbruntime.protocol.step_log import Step


class Meanwhile(IntEnum):
    """What the server ran between two events of a request."""

    DECODE = 0
    """Only decode, alone or together with other requests."""
    PREFILL = 1
    """The prefill of another request."""
    RETRACTION = 2
    """The request's own prefill again, after it was put back into the queue."""
    UNKNOWN = 3
    """No step is known of this time."""


@dataclass(frozen=True)
class TokenGaps:
    """The gaps between events with tokens of all requests, as columns.

    Parameters
    ----------
    request : array of int
        Place among the requests.
    position : array of int
        Number of the first token after the gap; the first token of a request is number 1 and has no gap.
    seconds : array of float
        Length by the client's clock.
    tokens : array of int
        Tokens that came after the gap.
    meanwhile : array of int
        What ran in it, as `Meanwhile`.
    """

    request: NDArray[np.int64]
    position: NDArray[np.int64]
    seconds: NDArray[np.float64]
    tokens: NDArray[np.int64]
    meanwhile: NDArray[np.int64]


@dataclass
class _OwnSteps:
    """The steps of one request, in their order."""

    tokens_at: list[float] = field(default_factory=list)  # for each token, the end of the step that gave it
    prefills: list[Step] = field(default_factory=list)
    again: list[Step] = field(default_factory=list)  # prefills after a decode: it was retracted
    first: Step | None = None
    last_was_prefill: bool = False

    def add(self, step: Step, prefill: bool) -> None:
        if prefill:
            self.prefills.append(step)
            if len(self.tokens_at) > 1 or (self.tokens_at and not self.last_was_prefill):
                self.again.append(step)
        if prefill and self.last_was_prefill:
            self.tokens_at[-1] = step.end  # a prompt in chunks gives one token, with the last chunk
        else:
            self.tokens_at.append(step.end)
        self.first = self.first or step
        self.last_was_prefill = prefill

    @property
    def whole(self) -> bool:
        """Whether the first steps are known."""
        return bool(self.prefills) and self.first is self.prefills[0]


def token_gaps(data: ProfileData) -> TokenGaps:
    """Return the gaps of all requests, in their order.

    Where the steps name their requests, the k-th token is matched with the k-th step that gave one, so that
    the way to the client shifts nothing. Otherwise the steps that overlap the gap by the client's clock do.
    """
    requests = [(place, request) for place, request in enumerate(data.requests) if len(request.arrivals) > 1]
    sizes = [len(request.arrivals) - 1 for _, request in requests]
    own_steps = _own_steps(data.steps, {request.rid for _, request in requests})
    ends = [_ends(request, own_steps.get(request.rid)) for _, request in requests]
    before = np.array([end for own in ends for end in own[:-1]], np.float64)
    after = np.array([end for own in ends for end in own[1:]], np.float64)
    prefills = _overlapping([step for step in data.steps if step.is_prefill], before, after)
    meanwhile = np.full(len(before), Meanwhile.DECODE, np.int64)
    meanwhile[_overlapping(data.steps, before, after) == 0] = Meanwhile.UNKNOWN
    meanwhile[prefills > 0] = Meanwhile.PREFILL
    stop = 0
    for (_, request), size in zip(requests, sizes, strict=True):
        part = slice(stop, stop + size)
        stop += size
        steps = own_steps.get(request.rid)
        if steps is None:
            if request.retractions:  # the prefill may be its own: these steps do not name their requests
                meanwhile[part][prefills[part] > 0] = Meanwhile.UNKNOWN
        elif steps.prefills and steps.prefills[-1].end > before[part.start]:
            own = _overlapping(steps.prefills, before[part], after[part])
            again = _overlapping(steps.again, before[part], after[part])
            meanwhile[part][(own > 0) & (own == prefills[part])] = Meanwhile.DECODE
            meanwhile[part][again > 0] = Meanwhile.RETRACTION
    return TokenGaps(
        request=np.repeat(np.array([place for place, _ in requests], np.int64), sizes),
        position=np.array([at for _, request in requests for at in _positions(request)], np.int64),
        seconds=np.array([gap for _, request in requests for gap in request.itl], np.float64),
        tokens=np.array([count for _, request in requests for _, count in request.arrivals[1:]], np.int64),
        meanwhile=meanwhile,
    )


def _own_steps(steps: Iterable[Step], rids: set[str]) -> dict[str, _OwnSteps]:
    found: dict[str, _OwnSteps] = defaultdict(_OwnSteps)
    for step in steps:
        for rid in step.rids:
            if rid in rids:
                found[rid].add(step, step.is_prefill_of(rid))
    return dict(found)


def _ends(request: RequestRecord, steps: _OwnSteps | None) -> list[float]:
    """Return when each event's last token was made; by the client's clock if the steps do not tell."""
    totals = list(accumulate(count for _, count in request.arrivals))
    if steps is None or not steps.whole or len(steps.tokens_at) < totals[-1]:
        return [request.sent + at for at, _ in request.arrivals]
    return [steps.tokens_at[max(total, 1) - 1] for total in totals]


def _positions(request: RequestRecord) -> list[int]:
    """Return the number of the first token of each event but the first one."""
    return [total + 1 for total in accumulate(count for _, count in request.arrivals[:-1])]


def _overlapping(
    steps: Sequence[Step], before: NDArray[np.float64], after: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Count the steps that overlap each of the times from `before` to `after`."""
    starts = np.sort(np.array([step.start for step in steps], np.float64))
    ends = np.sort(np.array([step.end for step in steps], np.float64))
    begun: NDArray[np.int64] = np.searchsorted(starts, after, "left")
    over: NDArray[np.int64] = np.searchsorted(ends, before, "right")
    return begun - over
