"""Sends the requests of a load test, one by one, and measures their answers."""

from __future__ import annotations

import asyncio
import math
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable
from statistics import median

from nbruntime.errors import NbruntimeError, TransportError
from nbruntime.generation.record import SERVER_TIMES
from nbruntime.profiling.bench.client.answers import Answer
from nbruntime.profiling.bench.client.connections import GENERATE, Connections
from nbruntime.profiling.bench.client.prompts import Prompts
from nbruntime.profiling.bench.plan import Figures, Measured
from nbruntime.profiling.records import RequestRecord, Status

EPOCH = time.time() - time.perf_counter()
"""Turns the clock that measures into Unix times, for the whole run alike."""

ABORT_SECONDS = 3.0
"""Seconds that the aborts of stopped requests may take together."""

RECENT = 200
"""Requests whose median TTFT is shown."""


class Sender:
    """Sends requests of a plan and reports each when it has ended.

    Parameters
    ----------
    connections : Connections
        Ways to the server.
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
        prompts: Prompts,
        timeout: float | None,
        report: Callable[[Measured], None],
    ) -> None:
        self._connections = connections
        self._prompts = prompts
        self._timeout = timeout
        self._report = report
        self._name = f"bench-{uuid.uuid4().hex[:12]}"
        self._ttfts: deque[float] = deque(maxlen=RECENT)
        self._sent = self._done = self._failed = self._tokens = 0
        self.unfinished: list[str] = []  # rids of requests that the server may still work on
        self.unreachable = 0  # requests in a row that found no server
        self.last_error = ""

    def figures(self) -> Figures:
        """Return the counts so far."""
        ended = self._done + self._failed
        recent = median(self._ttfts) if self._ttfts else None
        return Figures(self._sent, self._sent - ended, self._done, self._failed, self._tokens, recent)

    def prepare(self, number: int) -> bytes:
        """Return a request as it is sent; made before its time, since that takes a while."""
        return self._connections.write(GENERATE, self._prompts.body(number, self._rid(number)))

    def _rid(self, number: int) -> str:
        return f"{self._name}-{number}"

    async def send(self, number: int, request: bytes, scheduled: float) -> tuple[Status, float]:
        """Send a request that was due at a time, read its answer, and return how and when it ended."""
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
            # Soon: where many answers end together, the next requests come first.
            times = (scheduled, sent, ended)
            asyncio.get_running_loop().call_soon(self._finish, number, answer, status, error, times)
        return status, ended

    def _finish(
        self, number: int, answer: Answer, status: Status, error: str, times: tuple[float, float, float]
    ) -> None:
        self._report(Measured(_record(self._rid(number), answer, status, error, *times), number))

    def _note(self, problem: NbruntimeError) -> None:
        lost = isinstance(problem, TransportError) and not problem.sent
        self.unreachable = self.unreachable + 1 if lost else 0

    def _count(self, status: Status, answer: Answer, sent: float) -> None:
        self._done += status != "failed"
        self._failed += status == "failed"
        if answer.arrivals and status == "finished":
            self._ttfts.append(answer.arrivals[0][0] - sent)

    async def abort_unfinished(self) -> None:
        """Stop on the server what was left before its end."""
        rids, self.unfinished = self.unfinished, []
        if not rids:
            return
        try:
            async with asyncio.timeout(ABORT_SECONDS):
                await asyncio.gather(*map(self._connections.abort, rids))
        except (NbruntimeError, TimeoutError) as problem:
            # Their connections are closed, which ends them on the server as well.
            print(f"Requests could not be aborted: {problem}", file=sys.stderr)


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
        finish=_text(answer.finish or ""),
        error=_text(error.split("\n", 1)[0]),
        server_times={name: float(meta[name]) for name in SERVER_TIMES if _is_time(meta.get(name))},
        retractions=answer.count("num_retractions"),
        scheduled=EPOCH + scheduled,
    )


def _is_time(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _text(text: str) -> str:
    """Return a server's text without halves of characters, which cannot be reported."""
    return text.encode("utf-8", "replace").decode()
