"""`AsyncGenerationStream`: a running generation for callers with an event loop."""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from nbruntime.errors import AuthenticationError, NbruntimeError, NotFoundError
from nbruntime.generation.record import Generation
from nbruntime.generation.step_source import StepSource
from nbruntime.generation.stream_state import BaseStream, StreamState
from nbruntime.protocol.deltas import Delta
from nbruntime.protocol.requests import GenerateRequest

_log = logging.getLogger(__name__)

CANCELLED_PATIENCE = 0.5
"""Seconds that a cancelled task waits for its stream to close; closing goes on in the background."""

Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]
"""Starts a task, and keeps a reference until it is done."""


class _AsyncStreamCloser:
    """Closes the answer and aborts the request, once; does nothing in a forked process.

    `leave` works in a task of its own, which survives the cancellation of the reader. `abandon` works outside
    of the event loop, which may be closing and would cancel its tasks.
    """

    def __init__(
        self,
        state: StreamState,
        close: Callable[[], Awaitable[None]],
        abort: Callable[[Sequence[str]], Awaitable[None]],
        abandon: Callable[[Sequence[str]], None],
        spawn: Spawn,
    ) -> None:
        self.state = state
        self._close = close
        self._abort = abort
        self._abandon = abandon
        self._spawn = spawn
        self._leaving: asyncio.Task[None] | None = None
        self._abandoned = False
        self._pid = os.getpid()

    async def abort(self) -> None:
        self.state.aborted = True
        known = self.state.rids
        close_instead = self.state.has_unnamed_samples
        if known:
            try:
                await self._abort(known)
            except (NotFoundError, AuthenticationError):  # a router, or only the admin's key may abort
                close_instead = True
        if close_instead:
            await self.leave()

    def leave(self) -> asyncio.Task[None]:
        """Return the task that closes and aborts; start it at the first call."""
        if self._leaving is None:
            self._leaving = self._spawn(self._leave())
            if not self.state.over:
                self.state.aborted = True
        return self._leaving

    async def _leave(self) -> None:
        try:
            try:
                await self._close()
            finally:
                self.state.end()
                await self._abort_running()
        except asyncio.CancelledError:  # the loop ends
            self.abandon()
            raise

    async def _abort_running(self) -> None:
        rids = self._running()
        if rids and not self._abandoned:
            try:
                await self._abort(rids)
            except NbruntimeError as error:
                # The server is unreachable or closed; a running one notices the lost connection.
                _log.debug("abort of %s: %s", rids, error)

    def abandon(self) -> None:
        """Close and abort from any thread, without waiting and without the loop."""
        if self._pid != os.getpid():
            return
        if not self.state.over:
            self.state.aborted = True
        self.state.end()
        self._abandoned = True
        self._abandon(self._running())

    def _running(self) -> tuple[str, ...]:
        return self.state.rids if self.state.may_run else ()


class AsyncGenerationStream(BaseStream, AsyncIterator[str]):
    """A `GenerationStream` for ``async for`` and ``async with``.

    It also closes when it is garbage-collected, and when the task that reads it is cancelled. Its arguments
    are those of `GenerationStream`, with async functions, and two more.

    Parameters
    ----------
    abandon : callable
        Closes the answer and aborts rids, from any thread, without waiting and without the event loop.
    spawn : callable
        Starts a task for a coroutine, and keeps a reference until it is done.
    """

    _expired = False  # True after its time was up

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        request: GenerateRequest,
        *,
        close: Callable[[], Awaitable[None]],
        abort: Callable[[Sequence[str]], Awaitable[None]],
        abandon: Callable[[Sequence[str]], None],
        spawn: Spawn,
        where: str | None = None,
        started: float | None = None,
        cumulative_text: bool = False,
        scrub: Callable[[str], str] = str,
        source: StepSource | None = None,
    ) -> None:
        self._chunks = chunks
        self._reading = asyncio.Lock()  # a view may read while the caller waits for the result
        self._state = StreamState(
            request,
            where=where,
            started=started,
            cumulative_text=cumulative_text,
            scrub=scrub,
            source=source,
        )
        self._closer = _AsyncStreamCloser(self._state, close, abort, abandon, spawn)
        self._reader: weakref.ref[asyncio.Task[Any]] | None = None
        self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        self._finalizer = weakref.finalize(self, self._closer.abandon)
        self._finalizer.atexit = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        async def nothing(*_: object) -> None:
            """There is nothing to close."""

        self._state = state["_state"]
        self._chunks, self._reading, self._reader = _no_chunks(), asyncio.Lock(), None
        self._closer = _AsyncStreamCloser(
            self._state, nothing, nothing, abandon=lambda rids: None, spawn=asyncio.create_task
        )
        self._loop, self._expired = None, False
        self._finalizer = weakref.finalize(self, self._closer.abandon)
        self._finalizer.detach()

    async def __anext__(self) -> str:
        self._state.require_one_answer()
        while True:
            text = (await self._next_delta()).text
            if text:
                return text

    async def indexed(self) -> AsyncIterator[tuple[int, str]]:
        """Iterate over (index, new text) of all answers as they arrive."""
        async for delta in self.deltas():
            if delta.text:
                yield delta.index, delta.text

    async def deltas(self) -> AsyncIterator[Delta]:
        """Iterate over what every event adds, with its ``meta_info``; events without text included."""
        while True:
            try:
                yield await self._next_delta()
            except StopAsyncIteration:
                return

    async def _next_delta(self) -> Delta:
        state = self._state
        while True:
            try:  # suppress() would take longer than all the rest
                return state.pending.popleft()
            except IndexError:
                pass
            if state.over:
                await self.close()
                if state.error is not None:
                    raise state.error
                raise StopAsyncIteration
            await self._receive()

    async def _receive(self) -> None:
        self._note_reader()
        async with self._reading:
            if not self._state.over:  # another task may have read to the end meanwhile
                await self._receive_chunk()

    async def _receive_chunk(self) -> None:
        state = self._state
        try:
            chunk = await anext(self._chunks, None)
        except NbruntimeError as cause:
            state.end(cause)
            await self.close()
        except BaseException:
            # Most often the task was cancelled: close, and do not keep it waiting.
            self._finalizer.detach()
            await asyncio.wait([self._closer.leave()], timeout=CANCELLED_PATIENCE)
            raise
        else:
            if chunk is None:
                state.end()
            else:
                state.feed(chunk)

    def _note_reader(self) -> None:
        """Remember the reading task: it may be cancelled while it does something else."""
        task = asyncio.current_task()
        if task is not None and (self._reader is None or self._reader() is not task):
            self._reader = weakref.ref(task)
            task.add_done_callback(partial(_after_reader, weakref.ref(self)))

    async def result(self) -> Generation | list[Generation]:
        """Wait for the end and return the record; see `GenerationStream.result`."""
        while not self._state.over:
            await self._receive()
        self._state.pending.clear()
        await self.close()
        return self._record()

    async def abort(self) -> None:
        """Stop the generation on the server; text that has arrived can still be read."""
        if not self._state.over:
            await self._closer.abort()

    async def close(self) -> None:
        """Close the answer, and stop the generation if it is still running."""
        self._finalizer.detach()
        leaving = self._closer.leave()
        if self._expired:  # its time is up: the abort goes on in the background
            await asyncio.wait([leaving], timeout=CANCELLED_PATIENCE)
        else:
            await asyncio.shield(leaving)

    def expire(self, cause: NbruntimeError) -> None:
        """End the stream with an error, in its event loop: its time is up."""
        if not self._state.over:
            self._finalizer.detach()
            self._expired = True
            self._state.end(cause)
            self._closer.leave()  # wakes the reader

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that the stream belongs to; a copy belongs to none."""
        return self._loop or asyncio.get_running_loop()

    def leave_soon(self) -> None:
        """Close the stream from any thread or loop, without waiting."""
        if self._finalizer.detach() is not None:
            self._closer.abandon()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


async def _no_chunks() -> AsyncIterator[bytes]:
    return
    yield


def _after_reader(reference: weakref.ref[AsyncGenerationStream], task: asyncio.Task[Any]) -> None:
    # IPython catches the cancellation of an interrupted cell, so the task itself ends well.
    stream = reference()
    if stream is None or not (task.cancelled() or task.cancelling()):
        return
    if stream._reader is not None and stream._reader() is task and not stream.done:
        stream.leave_soon()
