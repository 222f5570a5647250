"""When requests are sent: on schedule, or by users who wait for their answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from nbruntime.profiling.bench.client.sender import Sender
from nbruntime.profiling.bench.plan import ClientPlan
from nbruntime.profiling.records import Status

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
        self._failure: BaseException | None = None

    async def run(self) -> None:
        """Send all requests, and wait for their ends; raise the first error that is not the server's."""
        sending = self.spawn(self.send_all())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([sending, stopping], return_when=asyncio.FIRST_COMPLETED)
        while sending.done() and self._tasks and not stopping.done():
            await asyncio.wait([stopping, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        left = [stopping, *self._tasks]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self.sender.abort_unfinished()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Stop the running requests, and send no more."""
        self._stopping.set()

    async def send_all(self) -> None:
        """Start all requests."""
        raise NotImplementedError

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a request, or a user."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._note_end)
        return task

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._failure = self._failure or failure
            self.stop()

    async def send(self, number: int, request: bytes, scheduled: float) -> tuple[Status, float]:
        """Send one request, and end the run if the server has gone."""
        ended = await self.sender.send(number, request, scheduled)
        if self.sender.unreachable >= MOST_UNREACHABLE:
            self.stop()
        return ended


class OpenLoop(Loop):
    """Sends requests on schedule, whether or not earlier ones were answered."""

    def __init__(self, plan: ClientPlan, sender: Sender) -> None:
        super().__init__(plan, sender)
        planned = list(enumerate(plan.requests[: plan.count]))
        self._first = [number for number, each in planned if each.after is None]
        self._next = {each.after: number for number, each in planned if each.after is not None}
        self._places = None if plan.concurrency is None else asyncio.Semaphore(plan.concurrency)

    async def send_all(self) -> None:
        """Send each request at its time."""
        # Many may be due at once.
        ahead = {number: self.sender.prepare(number) for number in self._first[:AHEAD]}
        self.began = time.perf_counter()
        for number in self._first:
            request = ahead.pop(number, None) or self.sender.prepare(number)
            due = self.began + self.plan.requests[number].at
            await _until(due)
            self.spawn(self._session(number, request, due))

    async def _session(self, number: int, request: bytes, due: float) -> None:
        """Send a request and those that follow its answer."""
        while True:
            if self._places is None:
                _, ended = await self.send(number, request, due)
            else:
                self.waited += self._places.locked()
                async with self._places:
                    _, ended = await self.send(number, request, due)
            following = self._next.get(number)
            if following is None:
                return
            number, due = following, ended + self.plan.requests[following].wait
            request = self.sender.prepare(number)
            await _until(due)


class ClosedLoop(Loop):
    """Lets each of a number of users send the next request after an answer."""

    def __init__(self, plan: ClientPlan, sender: Sender) -> None:
        super().__init__(plan, sender)
        self._users = plan.concurrency or 1
        self._taken = 0
        self._last_sending = float("inf")
        self._prepared: dict[int, bytes] = {}  # the next requests, made while those before them run

    async def send_all(self) -> None:
        """Let the users begin together."""
        for number in range(self._users):
            self._prepare(number)
        self.began = time.perf_counter()
        for _ in range(self._users):
            self.spawn(self._user())

    async def _user(self) -> None:
        due = self.began
        while (number := self._take()) is not None:
            request = self._prepared.pop(number, None) or self.sender.prepare(number)
            asyncio.get_running_loop().call_soon(self._prepare, number + self._users)
            status, ended = await self.send(number, request, due)
            pause = self.plan.think_time
            due = ended + (pause if status == "finished" else max(pause, PAUSE_AFTER_FAILURE))
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
