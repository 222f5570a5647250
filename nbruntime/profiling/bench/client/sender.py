"""Sends the requests of a load test, one by one, and measures their answers."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections import deque
from collections.abc import Callable
from statistics import median

from nbruntime.endpoint.async_transport import AsyncTransport
from nbruntime.errors import NbruntimeError, TransportError
from nbruntime.profiling.bench.client.answers import Answer
from nbruntime.profiling.bench.client.connection import Connections
from nbruntime.profiling.bench.client.prompts import Prompts
from nbruntime.profiling.bench.plan import Figures, Measured
from nbruntime.profiling.records import RequestRecord, Status

EPOCH = time.time() - time.perf_counter()
"""Turns the clock that measures into Unix times, for the whole run alike."""

ABORT_SECONDS = 3.0
"""Seconds that the aborts of stopped requests may take together."""

RECENT = 200
"""Requests whose median TTFT is shown."""

SERVER_TIMES = (
    "e2e_latency",
    "queue_time",
    "forward_entry_time",
    "prefill_finished_time",
    "request_received_ts",
    "api_server_dispatch_finish_ts",
    "first_token_latency",
    "request_finished_ts",
    "response_sent_to_client_ts",
)
"""Fields of ``meta_info`` that become `RequestRecord.server_times`."""


class Sender:
    """Sends requests of a plan and reports each when it has ended.

    Parameters
    ----------
    connections : Connections
        Ways to the server.
    transport : AsyncTransport
        Another, for aborts.
    prompts : Prompts
        Bodies of the requests.
    timeout : float or None
        Seconds that one request may take.
    report : callable
        Takes a `Measured` for each request.
    """

    def __init__(
        self,
        connections: Connections,
        transport: AsyncTransport,
        prompts: Prompts,
        timeout: float | None,
        report: Callable[[Measured], None],
    ) -> None:
        self._connections = connections
        self._transport = transport
        self._prompts = prompts
        self._timeout = timeout
        self._report = report
        self._name = f"bench-{uuid.uuid4().hex[:12]}"
        self._ttfts: deque[float] = deque(maxlen=RECENT)
        self._sent = self._done = self.failed = self._tokens = 0
        self.unfinished: list[str] = []  # rids of requests that the server may still work on
        self.unreachable = 0  # requests in a row that found no server
        self.last_error = ""

    def figures(self) -> Figures:
        """Return the counts so far."""
        ended = self._done + self.failed
        recent = median(itertools.islice(self._ttfts, RECENT)) if self._ttfts else None
        return Figures(self._sent, self._sent - ended, self._done, self.failed, self._tokens, recent)

    def prepare(self, number: int) -> bytes:
        """Return a request as it is sent; made before its time, since that takes a while."""
        return self._connections.write(self._prompts.body(number, self._rid(number)))

    def _rid(self, number: int) -> str:
        return f"{self._name}-{number}"

    async def send(self, number: int, request: bytes, scheduled: float) -> float:
        """Send a request that was due at a time, read its answer, and return when it ended."""
        rid = self._rid(number)
        answer = Answer()
        status: Status = "stopped"
        error = ""

        def read(piece: bytes, at: float) -> None:
            self._tokens += answer.feed(piece, at)

        self._sent += 1
        sent = ended = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout):
                ended = await self._connections.generate(request, read)
            answer.end()
            status, error = ("failed", answer.error) if answer.error else ("finished", "")
        except TimeoutError:
            ended = time.perf_counter()
            status, error = "failed", f"TimeoutError: no whole answer within {self._timeout:g} s"
            self.unfinished.append(rid)
        except NbruntimeError as problem:
            ended = time.perf_counter()
            status, error = "failed", f"{type(problem).__name__}: {problem.message}"
            self._note(problem)
        except asyncio.CancelledError:
            ended = time.perf_counter()
            answer.end()
            self.unfinished.append(rid)
            raise
        else:
            self.unreachable = 0
        finally:
            self._count(status, answer, sent)
            self.last_error = error or self.last_error
            self._report(Measured(_record(rid, answer, status, error, scheduled, sent, ended), number))
        return ended

    def _note(self, problem: NbruntimeError) -> None:
        lost = isinstance(problem, TransportError) and not problem.sent
        self.unreachable = self.unreachable + 1 if lost else 0

    def _count(self, status: Status, answer: Answer, sent: float) -> None:
        self._done += status != "failed"
        self.failed += status == "failed"
        if answer.arrivals and status == "finished":
            self._ttfts.append(answer.arrivals[0][0] - sent)

    async def abort_unfinished(self) -> None:
        """Stop on the server what was left before its end."""
        rids, self.unfinished = self.unfinished, []
        if not rids:
            return
        try:
            async with asyncio.timeout(ABORT_SECONDS):
                await self._transport.abort(rids)
        except (NbruntimeError, TimeoutError) as problem:
            # Their connections are closed, which ends them on the server as well.
            self.last_error = f"abort: {problem}"


def _record(
    rid: str, answer: Answer, status: Status, error: str, scheduled: float, sent: float, ended: float
) -> RequestRecord:
    meta = answer.meta_info
    return RequestRecord(
        rid=rid,
        sent=EPOCH + sent,
        ended=EPOCH + ended,
        arrivals=tuple((at - sent, count) for at, count in answer.arrivals),
        status=status,
        prompt_tokens=answer.count("prompt_tokens"),
        cached_tokens=answer.count("cached_tokens"),
        completion_tokens=max(answer.tokens, answer.count("completion_tokens")),
        finish=answer.finish or "",
        error=error.split("\n", 1)[0],
        server_times={name: float(meta[name]) for name in SERVER_TIMES if _is_time(meta.get(name))},
        retractions=answer.count("num_retractions"),
        scheduled=EPOCH + scheduled,
    )


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
