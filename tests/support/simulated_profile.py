"""Profiles as a server with continuous batching gives them, computed by a small simulation."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.records import LoadSample, RequestRecord, Status
from nbruntime.protocol.load import Load
from nbruntime.protocol.step_log import Step

START = 1_790_000_000.0
CACHE_SIZE = 65_536
CHUNK = 2048
NETWORK = 0.002


@dataclass(eq=False)
class _Sequence:
    rid: str
    sent: float
    prompt: int
    cached: int
    output: int
    leaves_after: int | None
    fails_after: int | None
    entered: float = 0.0
    prefilled: float = 0.0
    ended: float = 0.0
    computed: int = 0
    token_times: list[float] = field(default_factory=list)
    retractions: int = 0
    status: Status = "finished"

    @property
    def held(self) -> int:
        return self.cached + self.computed + len(self.token_times)


def simulated_profile(
    requests: int = 64,
    *,
    rate: float = 6.0,
    output: int = 60,
    max_running: int = 16,
    retract_at: float | None = 4.0,
    server_times: bool = True,
    seed: int = 7,
) -> ProfileData:
    """Return the profile of requests that arrive at random, some of them stopped, failed or retracted.

    A step takes 12 ms, and 0.25 ms for each new token of a prompt or 0.5 ms for each sequence it decodes.
    """
    rng = random.Random(seed)
    waiting = _arriving(requests, rate, output, rng)
    sequences = list(waiting)
    queue: deque[_Sequence] = deque()
    running: list[_Sequence] = []
    steps: list[Step] = []
    samples: list[LoadSample] = []
    clock, next_sample, retracted = START, START, retract_at is None
    made = 0
    while waiting or queue or running:
        while waiting and waiting[0].sent + NETWORK <= clock:
            queue.append(waiting.popleft())
        while next_sample <= clock:
            samples.append(_sample(next_sample, running, queue, made))
            next_sample, made = next_sample + 0.25, 0
        if not retracted and len(running) > 2 and clock - START > (retract_at or 0):
            retracted, victim = True, running.pop()
            victim.retractions, victim.computed = 1, 0
            queue.append(victim)
        batch = []
        budget = CHUNK
        while queue and budget and len(running) + len(batch) < max_running:
            sequence = queue[0]
            needed = sequence.prompt - sequence.cached + len(sequence.token_times) - sequence.computed
            taken = min(needed, budget)
            batch.append((sequence, taken))
            sequence.entered = sequence.entered or clock
            sequence.computed += taken
            budget -= taken
            if taken < needed:
                break
            queue.popleft()
        if batch:
            tokens = sum(taken for _, taken in batch)
            step = _step("EXTEND", clock, 0.012 + 0.00025 * tokens, batch, len(steps), queue, running, rng)
            done = [sequence for sequence, _ in batch if sequence not in queue]
        elif running:
            alone = [(sequence, 1) for sequence in running]
            step = _step(
                "DECODE", clock, 0.012 + 0.0005 * len(running), alone, len(steps), queue, running, rng
            )
            done = list(running)
        else:
            clock = waiting[0].sent + NETWORK
            continue
        steps.append(step)
        clock = step.end + 0.0004
        for sequence in done:
            made += 1
            sequence.token_times.append(step.end)
            sequence.prefilled = sequence.prefilled or step.end
            if batch:
                running.append(sequence)
            if _is_over(sequence):
                sequence.ended = step.end
                running.remove(sequence)
    return ProfileData(
        server="http://127.0.0.1:30000",
        model="Qwen/Qwen3-8B",
        started=START - 0.05,
        ended=clock + 0.05,
        requests=[_record(sequence, server_times, rng) for sequence in sequences],
        samples=samples,
        steps=steps,
        steps_from="step log",
    )


def _arriving(requests: int, rate: float, output: int, rng: random.Random) -> deque[_Sequence]:
    sent = START
    found = deque()
    for number in range(requests):
        long = rng.random() < 0.12
        prompt = rng.randint(2500, 4000) if long else int(rng.lognormvariate(5.5, 0.7)) + 8
        cached = int(prompt * rng.uniform(0.6, 0.95)) // 16 * 16 if rng.random() < 0.4 else 0
        count = max(2, int(rng.lognormvariate(0, 0.6) * output))
        fate = rng.random()
        found.append(
            _Sequence(
                f"{number:08x}",
                sent,
                prompt,
                cached,
                count,
                leaves_after=count // 2 if fate < 0.06 else None,
                fails_after=count // 3 if fate > 0.95 else None,
            )
        )
        sent += rng.expovariate(rate)
    return found


def _step(
    stage: str,
    start: float,
    seconds: float,
    batch: list[tuple[_Sequence, int]],
    number: int,
    queue: deque[_Sequence],
    running: list[_Sequence],
    rng: random.Random,
) -> Step:
    return Step(
        stage,
        start,
        seconds * rng.uniform(0.95, 1.1),
        len(batch),
        sum(taken for _, taken in batch),
        number,
        tuple(sequence.rid for sequence, _ in batch),
        tuple(taken for _, taken in batch),
        len(queue),
        sum(sequence.held for sequence in running),
    )


def _is_over(sequence: _Sequence) -> bool:
    made = len(sequence.token_times)
    if made == sequence.leaves_after:
        sequence.status = "stopped"
    elif made == sequence.fails_after:
        sequence.status = "failed"
    return made >= sequence.output or sequence.status != "finished"


def _sample(at: float, running: list[_Sequence], queue: deque[_Sequence], made: int) -> LoadSample:
    used = sum(sequence.held for sequence in running)
    prompt = sum(sequence.prompt for sequence in running)
    return LoadSample(
        at,
        Load(
            num_running_reqs=len(running),
            num_waiting_reqs=len(queue),
            num_used_tokens=used,
            max_total_num_tokens=CACHE_SIZE,
            token_usage=used / CACHE_SIZE,
            gen_throughput=made / 0.25,
            cache_hit_rate=sum(sequence.cached for sequence in running) / prompt if prompt else 0.0,
        ),
    )


def _record(sequence: _Sequence, server_times: bool, rng: random.Random) -> RequestRecord:
    delays = [NETWORK + rng.expovariate(2000) for _ in sequence.token_times]
    arrivals = [at + delay - sequence.sent for at, delay in zip(sequence.token_times, delays, strict=True)]
    times = {
        "request_received_ts": sequence.sent + NETWORK,
        "forward_entry_time": sequence.entered,
        "prefill_finished_time": sequence.prefilled,
        "request_finished_ts": sequence.ended,
    }
    return RequestRecord(
        sequence.rid,
        sequence.sent,
        sequence.ended + NETWORK * 1.2,
        tuple((max(arrivals[: place + 1]), 1) for place in range(len(arrivals))),
        sequence.status,
        prompt_tokens=sequence.prompt,
        cached_tokens=sequence.cached,
        completion_tokens=len(arrivals),
        finish={"finished": "length", "stopped": "abort"}.get(sequence.status, ""),
        error="ServerError: out of memory, $5 <b>each</b> $x^2$" if sequence.status == "failed" else "",
        server_times=times if server_times else {},
        retractions=sequence.retractions,
    )
