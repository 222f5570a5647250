"""When requests are sent: on schedule, or by users who wait for their answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from nbruntime.profiling.bench.client.sender import Sender
from nbruntime.profiling.bench.plan import ClientPlan

MOST_UNREACHABLE = 32
"""Requests in a row that find no server, after which the run ends."""

AHEAD = 256
"""Requests of an open loop that are made before its start."""

PAUSE_AFTER_FAILURE = 0.2
"""Seconds that a user waits after a failure, or a server that refuses all would get thousands a second."""


class Loop:
    """What both kinds of loop share: the requests under way, and their end.

    Attributes
    ----------
    waited : int
        Requests that waited for a place among those that may run at once.
    """

    def __init__(self, plan: ClientPlan, sender: Sender) -> None:
        self.plan = plan
        self.sender = sender
        self.began = 0.0
        self.waited = 0
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Send all requests, and wait for their ends."""
        sending = asyncio.create_task(self.send_all())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([sending, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            for task in (sending, *self._tasks):
                task.cancel()
        results = await asyncio.gather(sending, *self._tasks, return_exceptions=True)
        await self.sender.abort_unfinished()
        for result in results:
            if isinstance(result, Exception):
                raise result

    def stop(self) -> None:
        """Stop the running requests, and send no more."""
        self._stopping.set()

    async def send_all(self) -> None:
        """Send all requests, and wait for their ends; `run` cancels it to stop."""
        raise NotImplementedError

    async def all_ended(self) -> None:
        """Wait for the requests under way; raise the first error that is not theirs."""
        while self._tasks:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in [each for each in self._tasks if each.done()]:
                self._tasks.discard(task)
                task.result()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a request, or a user."""
        task = asyncio.create_task(work)
        self._tasks.add(task)

    async def send(self, number: int, request: bytes, scheduled: float) -> float:
        """Send one request, and end the run if the server has gone."""
        ended = await self.sender.send(number, request, scheduled)
        if self.sender.unreachable >= MOST_UNREACHABLE:
            self.stop()
        return ended


class OpenLoop(Loop):
    """Sends requests on schedule, whether or not earlier ones were answered."""

    async def send_all(self) -> None:
        """Send each request at its time."""
        requests = self.plan.requests[: self.plan.count]
        self._next = {
            planned.after: number for number, planned in enumerate(requests) if planned.after is not None
        }
        places = None if self.plan.concurrency is None else asyncio.Semaphore(self.plan.concurrency)
        # Many may be due at once.
        ahead = {number: self.sender.prepare(number) for number in range(min(AHEAD, len(requests)))}
        self.began = time.perf_counter()
        for number, planned in enumerate(requests):
            if planned.after is None:
                due = self.began + planned.at
                request = ahead.pop(number, None) or self.sender.prepare(number)
                await _until(due)
                self.spawn(self._session(number, request, due, places))
                self._forget_ended()
        await self.all_ended()

    async def _session(
        self, number: int, request: bytes, due: float, places: asyncio.Semaphore | None
    ) -> None:
        """Send a request and those that follow its answer."""
        while True:
            if places is None:
                ended = await self.send(number, request, due)
            else:
                self.waited += places.locked()
                async with places:
                    ended = await self.send(number, request, due)
            following = self._next.get(number)
            if following is None:
                return
            number, due = following, ended + self.plan.requests[following].wait
            request = self.sender.prepare(number)
            await _until(due)

    def _forget_ended(self) -> None:
        for task in [each for each in self._tasks if each.done()]:
            self._tasks.discard(task)
            task.result()


class ClosedLoop(Loop):
    """Lets each of a number of users send the next request after an answer."""

    async def send_all(self) -> None:
        """Let the users begin together."""
        self._taken = 0
        self._last_sending = float("inf")
        self._users = self.plan.concurrency or 1
        # A request is made while the one before it runs.
        self._prepared: dict[int, bytes] = {}
        for number in range(self._users):
            self._prepare(number)
        self.began = time.perf_counter()
        for _ in range(self._users):
            self.spawn(self._user())
        await self.all_ended()

    async def _user(self) -> None:
        due = self.began
        while (number := self._take()) is not None:
            request = self._prepared.pop(number, None) or self.sender.prepare(number)
            failed = self.sender.failed
            asyncio.get_running_loop().call_soon(self._prepare, number + self._users)
            ended = await self.send(number, request, due)
            pause = self.plan.think_time
            if self.sender.failed > failed:
                pause = max(pause, PAUSE_AFTER_FAILURE)
            due = ended + pause
            await _until(due)

    def _prepare(self, number: int) -> None:
        if self.plan.count is None or number < self.plan.count:
            self._prepared[number] = self.sender.prepare(number)

    def _take(self) -> int | None:
        """Take the number of the next request; None if there is none left or no time."""
        number = self._taken
        if self.plan.count is not None and number >= self.plan.count:
            return None
        now = time.perf_counter()
        if number == self.plan.warmup and self.plan.seconds is not None:
            self._last_sending = now + self.plan.seconds
        if now > self._last_sending:
            return None
        self._taken += 1
        return number


async def _until(moment: float) -> None:
    """Sleep until a moment of `time.perf_counter`; let others run at least."""
    await asyncio.sleep(max(0.0, moment - time.perf_counter()))
