"""The scheduler: requests are served in turns, within the budget, on the right keys and values."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbruntime.embedded.cache.token_cache import TokenCache
from nbruntime.embedded.engine.request import Request
from nbruntime.embedded.engine.scheduler import DecodeStep, ExtendStep, FairQueue, Scheduler
from nbruntime.embedded.sampling.logprobs import LogprobRequest
from nbruntime.protocol.sampling import SamplingParams


class NoText:
    """Stands for the decoding of text, which scheduling does not look at."""

    text = ""

    def push(self, token_id: int) -> None: ...
    def flush(self) -> None: ...
    def find_stop(self, token_id: int) -> None: ...


class NoSampling:
    def accept(self, token_id: int) -> None: ...
    def ends_with(self, token_id: int) -> bool:
        return False


def make_request(prompt: list[int], new: int, *, group: object = None, start: int | None = None) -> Request:
    no_text: Any = NoText()
    no_sampling: Any = NoSampling()
    return Request(
        rid="",
        prompt_ids=prompt,
        params=SamplingParams(max_new_tokens=new),
        sampling=no_sampling,
        stream=no_text,
        deliver=lambda update: None,
        group=group,
        logprobs=None if start is None else LogprobRequest(start),
    )


@dataclass
class Bench:
    """Runs a scheduler on a model whose "keys and values" are the tokens themselves."""

    scheduler: Scheduler
    held: dict[int, tuple[int, ...]]
    steps: int = 0

    @classmethod
    def of(cls, capacity: int, *, max_running: int = 4, chunk: int = 8, reuse: bool = True) -> Bench:
        return cls(Scheduler(TokenCache(capacity, reuse=reuse), max_running=max_running, chunk=chunk), {})

    def compute(self, request: Request, start: int, end: int) -> None:
        tokens = request.token_ids
        for position in range(start, end):
            self.held[request.span.slots[position]] = tuple(tokens[: position + 1])
        for position in range(end):
            assert self.held[request.span.slots[position]] == tuple(tokens[: position + 1]), (
                "a request reads the keys and values of other tokens"
            )

    def step(self) -> ExtendStep | DecodeStep | None:
        step = self.scheduler.next_step()
        self.steps += 1
        ended: set[Request] = set()
        if isinstance(step, ExtendStep):
            assert sum(part.length for part in step.parts) <= self.scheduler.chunk
            for part in step.parts:
                assert part.start == part.request.computed
                self.compute(part.request, part.start, part.start + part.length)
            self.scheduler.computed(step)
            advanced = [part.request for part in step.parts if part.completes]
        elif isinstance(step, DecodeStep):
            for request in step.requests:
                self.compute(request, request.length - 1, request.length)
            self.scheduler.computed(step)
            advanced = list(step.requests)
        else:
            return None
        for request in advanced:
            # The "model" answers the sum of what it read: a wrong past gives a wrong answer.
            request.append(sum(request.token_ids) % 3)
            if request.finish_reason:
                ended.add(request)
        self.scheduler.release(ended)
        self.check()
        return step

    def check(self) -> None:
        scheduler, cache = self.scheduler, self.scheduler.cache
        live = [*scheduler.running, *scheduler.extending]
        assert len(live) <= scheduler.max_running
        private = sum(len(request.span.slots) - request.span.shared for request in live)
        assert cache.pool.free + cache.tree.size + private == cache.capacity

    def run(self, limit: int = 20_000) -> None:
        while not self.scheduler.idle:
            assert self.step() is not None, "there is work and nothing is done"
            assert self.steps < limit, "the requests do not come to an end"


def alone(prompt: list[int], new: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(new):
        tokens.append(sum(tokens) % 3)
    return tokens[len(prompt) :]


prompts = st.lists(st.integers(0, 2), min_size=1, max_size=30)
jobs = st.lists(
    st.tuples(prompts, st.integers(1, 20), st.integers(0, 2), st.integers(0, 15)), min_size=1, max_size=12
)


@settings(deadline=None, max_examples=150)
@given(
    jobs=jobs,
    capacity=st.integers(52, 120),
    max_running=st.integers(1, 6),
    chunk=st.integers(1, 40),
    reuse=st.booleans(),
)
def test_scheduled_requests_get_the_same_answers_as_alone(
    jobs: list[tuple[list[int], int, int, int]], capacity: int, max_running: int, chunk: int, reuse: bool
) -> None:
    bench = Bench.of(capacity, max_running=max_running, chunk=chunk, reuse=reuse)
    pending = sorted(jobs, key=lambda job: job[3])
    requests = []
    while pending or not bench.scheduler.idle:
        while pending and pending[0][3] <= bench.steps:
            prompt, new, group, _ = pending.pop(0)
            requests.append((make_request(prompt, new, group=group), prompt, new))
            bench.scheduler.add(requests[-1][0])
        if bench.scheduler.idle:
            bench.steps += 1
        else:
            assert bench.step() is not None
        assert bench.steps < 20_000
    for request, prompt, new in requests:
        assert request.output_ids == alone(prompt, new)
    assert bench.scheduler.cache.tree.locked == 0
    bench.scheduler.cache.flush()
    assert bench.scheduler.cache.pool.free == capacity


def test_a_full_cache_retracts_the_newest_request_and_serves_it_later() -> None:
    bench = Bench.of(60, max_running=4, chunk=64)
    requests = [make_request([number] * 10, 30) for number in range(3)]
    for request in requests:
        bench.scheduler.add(request)
    bench.run()
    assert sum(request.retractions for request in requests) > 0
    assert requests[0].retractions == 0
    for number, request in enumerate(requests):
        assert request.output_ids == alone([number] * 10, 30)


@settings(deadline=None)
@given(capacity=st.integers(52, 140), news=st.lists(st.integers(1, 40), min_size=2, max_size=6))
def test_the_newest_requests_are_retracted_first(capacity: int, news: list[int]) -> None:
    bench = Bench.of(capacity, max_running=4, chunk=64)
    requests = [make_request([number % 3] * 10, new) for number, new in enumerate(news)]
    for request in requests:
        bench.scheduler.add(request)
    while not bench.scheduler.idle:
        before = [request.retractions for request in requests]
        live = [*bench.scheduler.running, *bench.scheduler.extending]
        assert live == sorted(live, key=requests.index)
        assert bench.step() is not None
        assert bench.steps < 20_000
        retracted = [
            request for request, count in zip(requests, before, strict=True) if request.retractions > count
        ]
        kept = [request for request in live if request not in retracted]
        assert live == kept + retracted, "an older request made room for a newer one"
    assert requests[0].retractions == 0


def test_a_long_prompt_comes_in_short_chunks_between_decode_steps() -> None:
    bench = Bench.of(500, chunk=40)
    streaming = make_request([1, 2], 100)
    bench.scheduler.add(streaming)
    bench.step()
    bench.scheduler.add(make_request([0] * 200, 1))
    kinds = []
    while bench.scheduler.extending or len(bench.scheduler.waiting):
        step = bench.step()
        kinds.append(type(step))
        if isinstance(step, ExtendStep):
            assert sum(part.length for part in step.parts) <= 10
    assert ExtendStep in kinds
    assert all(after is DecodeStep for before, after in itertools.pairwise(kinds) if before is ExtendStep)


def test_prompts_that_come_together_compute_their_common_prefix_once() -> None:
    bench = Bench.of(2000, max_running=8, chunk=512)
    common = [1, 2, 0] * 40
    requests = [make_request([*common, number], 2) for number in range(3)]
    for request in requests:
        bench.scheduler.add(request)
    bench.run()
    assert [request.cached_tokens for request in requests] == [0, len(common), len(common)]


@pytest.mark.parametrize(("start", "cached"), [(None, 19), (0, 0), (12, 12), (20, 19)])
def test_cached_tokens_are_recomputed_for_their_logprobs(start: int | None, cached: int) -> None:
    bench = Bench.of(100)
    prompt = [number % 3 for number in range(20)]
    bench.scheduler.add(make_request(prompt, 1))
    bench.run()
    again = make_request(prompt, 1, start=start)
    bench.scheduler.add(again)
    bench.run()
    assert again.cached_tokens == cached


def test_a_single_request_passes_the_rest_of_a_large_batch() -> None:
    bench = Bench.of(1000, max_running=1)
    batch, late = object(), object()
    many = [make_request([1, 2, 0, number % 3], 2, group=batch) for number in range(20)]
    for request in many:
        bench.scheduler.add(request)
    bench.step()
    single = make_request([2, 2], 2, group=late)
    bench.scheduler.add(single)
    done_before = 0
    while single.finish_reason is None:
        bench.step()
        done_before = sum(request.finish_reason is not None for request in many)
    assert done_before <= 2
    bench.run()


@given(st.lists(st.integers(0, 3), max_size=40))
def test_the_queue_keeps_the_order_within_a_group_and_loses_no_request(groups: list[int]) -> None:
    queue = FairQueue()
    requests = [make_request([1], 1, group=group) for group in groups]
    for request in requests:
        queue.add(request, request.group)
    popped = [queue.pop() for _ in range(len(queue))]
    assert set(popped) == set(requests)
    for group in set(groups):
        own = [request for request in requests if request.group == group]
        assert [request for request in popped if request.group == group] == own


def test_the_queue_forgets_empty_groups() -> None:
    queue = FairQueue()
    queue.add(make_request([1], 1), "always there")
    for group in range(100):
        request = make_request([1], 1)
        queue.add(request, group)
        queue.add(make_request([1], 1), "always there")
        if group % 2:
            queue.remove({request})
        else:
            queue.pop()
            queue.pop()
    assert len(queue._last_turn) <= 3


def test_aborted_requests_leave_every_stage() -> None:
    bench = Bench.of(200, max_running=2, chunk=8)
    requests = [make_request([number % 3] * 30, 10) for number in range(5)]
    for request in requests:
        bench.scheduler.add(request)
    for _ in range(6):
        bench.step()
    assert bench.scheduler.running
    assert len(bench.scheduler.waiting)
    ended = set(bench.scheduler.requests())
    bench.scheduler.release(ended)
    assert bench.scheduler.idle
    bench.scheduler.cache.flush()
    assert bench.scheduler.cache.pool.free == 200
