"""Continuous batching with chunked prefill over a bounded KV cache.

Requests join and leave between steps. An extend step computes prompts in chunks; a decode step gives each
running request one more token. While requests are running, both kinds alternate and chunks are short, so that
a long prompt does not stall other streams.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from dataclasses import dataclass

from nbruntime.embedded.cache.token_cache import TokenCache
from nbruntime.embedded.engine.request import Request
from nbruntime.embedded.sampling.logprobs import LogprobRecord

DECODE_RESERVE = 32
"""Slots kept free for the next tokens of each running request when another one is admitted."""

SHARED_PREFIX = 16
"""A request waits a step if another one is computing a common prefix of at least this many tokens."""


@dataclass(frozen=True, slots=True)
class ExtendPart:
    """A run of tokens of one request to compute."""

    request: Request
    start: int  # position of the first token, in prompt and answer
    length: int

    @property
    def completes(self) -> bool:
        """Whether the next token can be chosen after this part."""
        return self.start + self.length == self.request.length


@dataclass(frozen=True, slots=True)
class ExtendStep:
    """Prompt tokens to compute."""

    parts: tuple[ExtendPart, ...]


@dataclass(frozen=True, slots=True)
class DecodeStep:
    """Running requests that get one more token each."""

    requests: tuple[Request, ...]
    retracted: tuple[Request, ...] = ()  # put back into the queue to make room for the tokens


class FairQueue:
    """Waiting requests; groups take turns, and within a group the first comes first.

    This is start-time fair queuing: a group's k-th request is k turns behind the request served now, so a
    single request passes the rest of a large batch that came before it.

    Examples
    --------
    >>> queue = FairQueue()
    >>> for name, group in (("a1", "a"), ("a2", "a"), ("b1", "b")):
    ...     queue.add(name, group)
    >>> [queue.pop() for _ in range(3)]
    ['a1', 'b1', 'a2']
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, object, Request]] = []
        self._arrivals = itertools.count()
        self._turn = 0
        self._last_turn: dict[object, int] = {}
        self._front: deque[Request] = deque()

    def add(self, request: Request, group: object) -> None:
        """Queue a request behind the others of its group."""
        turn = max(self._turn, self._last_turn.get(group, 0)) + 1
        self._last_turn[group] = turn
        heapq.heappush(self._heap, (turn, next(self._arrivals), group, request))

    def put_back(self, request: Request) -> None:
        """Queue a request before all others."""
        self._front.appendleft(request)

    def peek(self) -> Request:
        """Give the next request without removing it."""
        return self._front[0] if self._front else self._heap[0][-1]

    def pop(self) -> Request:
        """Remove and return the next request."""
        if self._front:
            return self._front.popleft()
        self._turn, _, group, request = heapq.heappop(self._heap)
        if self._last_turn[group] == self._turn:
            del self._last_turn[group]  # the group's last one
        return request

    def remove(self, unwanted: set[Request]) -> None:
        """Remove requests."""
        self._front = deque(request for request in self._front if request not in unwanted)
        # A sorted list is a heap, and leaves each group with the turn of its last request.
        self._heap = sorted(entry for entry in self._heap if entry[-1] not in unwanted)
        self._last_turn = {group: turn for turn, _, group, _ in self._heap}

    def __len__(self) -> int:
        return len(self._front) + len(self._heap)

    def __iter__(self) -> itertools.chain[Request]:
        return itertools.chain(self._front, (entry[-1] for entry in sorted(self._heap)))


class Scheduler:
    """Decides what each step computes.

    Parameters
    ----------
    cache : TokenCache
        Gives slots to requests.
    max_running : int
        Largest number of requests that are decoded together.
    chunk : int
        Largest number of tokens of an extend step while no request is running.
    """

    def __init__(self, cache: TokenCache, *, max_running: int, chunk: int) -> None:
        self.cache = cache
        self.max_running = max_running
        self.chunk = chunk
        self.waiting = FairQueue()
        self.extending: list[Request] = []
        self.running: list[Request] = []
        self._extended_last = False

    @property
    def idle(self) -> bool:
        """Whether there are no requests."""
        return not (self.running or self.extending or len(self.waiting))

    def requests(self) -> list[Request]:
        """List all requests that have not ended."""
        return [*self.running, *self.extending, *self.waiting]

    def add(self, request: Request) -> None:
        """Queue a request."""
        self.waiting.add(request, request.group)

    def next_step(self) -> ExtendStep | DecodeStep | None:
        """Decide what to compute now; None if there is nothing to do."""
        step: ExtendStep | DecodeStep | None = None
        if not (self._extended_last and self.running):
            step = self._plan_extend()
        if step is None and self.running:
            step = self._plan_decode()
        if step is None:
            step = self._plan_extend()
        self._extended_last = isinstance(step, ExtendStep)
        return step

    def computed(self, step: ExtendStep | DecodeStep) -> None:
        """Record that the keys and values of a step are in the cache."""
        if isinstance(step, DecodeStep):
            for request in step.requests:
                request.computed += 1
            return
        for part in step.parts:
            request = part.request
            request.computed += part.length
            if part.completes:
                self.extending.remove(request)
                self.running.append(request)
                self.cache.share(request.span, request.token_ids[: request.computed])

    def release(self, ended: set[Request]) -> None:
        """Release the slots of ended requests; keep the computed prefixes cached."""
        if not ended:
            return
        for request in ended:
            self.cache.close(request.span, request.token_ids[: request.computed])
            request.computed = 0
        self.running = [request for request in self.running if request not in ended]
        self.extending = [request for request in self.extending if request not in ended]
        self.waiting.remove(ended)

    def _plan_extend(self) -> ExtendStep | None:
        budget = max(1, self.chunk // 4) if self.running else self.chunk
        parts: list[ExtendPart] = []
        for request in self.extending:
            if budget <= 0:
                break
            budget -= _add_part(parts, request, budget)
        while budget > 0 and len(self.waiting) and self._admit(parts):
            budget -= _add_part(parts, self.extending[-1], budget)
        return ExtendStep(tuple(parts)) if parts else None

    def _admit(self, parts: list[ExtendPart]) -> bool:
        """Move the next waiting request to `extending`, if there is room for it."""
        if len(self.running) + len(self.extending) >= self.max_running:
            return False
        request = self.waiting.peek()
        tokens = request.token_ids
        limit = _reusable(request)
        if self._shares_work_in_progress(tokens[:limit], parts):
            return False
        span = self.cache.open(tokens, limit=limit)
        reserve = DECODE_RESERVE * len(self.running)
        needed = len(tokens) - span.shared
        crowded = bool(self.running or self.extending) and self.cache.available < needed + reserve
        if crowded or not self.cache.grow(span, needed):
            self.cache.close(span, tokens[: span.shared])
            return False
        self.waiting.pop()
        request.span, request.computed = span, span.shared
        if not request.output_ids and not request.retractions:
            request.cached_tokens = span.shared
        self.extending.append(request)
        return True

    def _shares_work_in_progress(self, tokens: list[int], parts: list[ExtendPart]) -> bool:
        """Tell whether a request in this step computes a long prefix that these tokens share."""
        if not self.cache.reuse or not self.extending:
            return False
        known = self.cache.known(tokens)
        end = known + SHARED_PREFIX
        if len(tokens) < end:
            return False
        busy = {part.request for part in parts} | set(self.extending)
        return any(other.token_ids[:end] == tokens[:end] for other in busy)

    def _plan_decode(self) -> DecodeStep:
        # The last chosen token has no slot yet; the newest requests make room for the oldest.
        ready: list[Request] = []
        retracted: list[Request] = []
        for request in list(self.running):
            while request in self.running and not self.cache.grow(request.span, 1):
                retracted.append(self._retract_newest())
            ready.append(request)
        return DecodeStep(tuple(request for request in ready if request in self.running), tuple(retracted))

    def _retract_newest(self) -> Request:
        """Move the request that was admitted last back to the queue, to make room; return it."""
        if len(self.running) + len(self.extending) == 1:
            raise AssertionError("a single request does not fit into the KV cache")
        newest = (self.extending or self.running).pop()
        self.cache.close(newest.span, newest.token_ids[: newest.computed])
        newest.computed = 0
        newest.retractions += 1
        if not newest.output_ids:
            newest.input_logprobs = LogprobRecord()  # its prompt is computed again
        self.waiting.put_back(newest)
        return newest


def _reusable(request: Request) -> int:
    """Count the leading tokens whose logits are not needed, so that cached keys and values suffice."""
    last = request.length - 1
    if request.logprobs is not None and not request.output_ids:
        return min(last, request.logprobs.start)
    return last


def _add_part(parts: list[ExtendPart], request: Request, budget: int) -> int:
    length = min(budget, request.length - request.computed)
    parts.append(ExtendPart(request, request.computed, length))
    return length
