"""Load tests of simulated servers: runs with known waiting times, without a clock."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from nbruntime.profiling.bench_run import BenchRun
from nbruntime.profiling.records import LoadSample, RequestRecord
from nbruntime.protocol.load import Load

BEGIN = 1_000.0
"""When each run starts, as Unix time."""


@dataclass(frozen=True)
class SimulatedServer:
    """Answers in turn: `slots` requests at once, each with a prefill and decode steps of a fixed length."""

    slots: int = 4
    prefill: float = 0.05
    step: float = 0.03
    tokens: int = 16
    reports_times: bool = True

    def answer(self, sent: float, start: float, number: int) -> RequestRecord:
        """Answer a request that was sent at one time and taken up at another."""
        first = start + self.prefill - sent
        arrivals = tuple((first + self.step * token, 1) for token in range(self.tokens))
        times = {"queue_time": start - sent} if self.reports_times else {}
        ended = sent + arrivals[-1][0]
        return RequestRecord(
            f"r{number}",
            sent,
            ended,
            arrivals,
            prompt_tokens=100,
            completion_tokens=self.tokens,
            finish="length",
            server_times=times,
            scheduled=sent,
        )

    @property
    def service(self) -> float:
        """Seconds of one answer without a queue."""
        return self.prefill + self.step * (self.tokens - 1)


def closed_run(
    users: int, server: SimulatedServer | None = None, *, seconds: float = 60.0, label: str = "tiny"
) -> BenchRun:
    """Let users ask one after the other; the steady state is all but the first tenth of the time."""
    server = server or SimulatedServer()
    free = [BEGIN] * server.slots
    ready = [(BEGIN + 0.001 * user, user) for user in range(users)]
    requests = []
    while ready[0][0] < BEGIN + seconds:
        sent, user = heapq.heappop(ready)
        start = max(sent, heapq.heappop(free))
        record = server.answer(sent, start, len(requests))
        heapq.heappush(free, record.ended)
        heapq.heappush(ready, (record.ended, user))
        requests.append(record)
    return _run(requests, label, seconds, concurrency=users)


def open_run(
    rate: float,
    server: SimulatedServer | None = None,
    *,
    seconds: float = 60.0,
    label: str = "tiny",
    seed: int = 0,
) -> BenchRun:
    """Send requests at random times (Poisson) at a rate."""
    server = server or SimulatedServer()
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds))
    free = [BEGIN] * server.slots
    requests = []
    for sent in BEGIN + np.cumsum(gaps):
        record = server.answer(float(sent), max(float(sent), heapq.heappop(free)), len(requests))
        heapq.heappush(free, record.ended)
        requests.append(record)
    return _run(requests, label, float(gaps.sum()), rate=rate)


def _run(
    requests: list[RequestRecord],
    label: str,
    seconds: float,
    *,
    rate: float | None = None,
    concurrency: int | None = None,
) -> BenchRun:
    waiting = []
    for at in np.arange(BEGIN, BEGIN + seconds):
        queued = int(sum(each.sent <= at < each.sent + (each.ttft or 0.0) for each in requests))
        waiting.append(LoadSample(float(at), Load(num_waiting_reqs=queued)))
    return BenchRun(
        label,
        "http://127.0.0.1:30000",
        "tiny",
        "closed" if rate is None else "open",
        rate,
        concurrency,
        BEGIN,
        max((each.ended for each in requests), default=BEGIN),
        (BEGIN + seconds / 10, BEGIN + seconds),
        requests,
        waiting,
    )
