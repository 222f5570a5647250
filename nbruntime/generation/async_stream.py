"""The same as `nbruntime.generation.stream`, for callers with an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from nbruntime.errors import AuthenticationError, NbruntimeError, NotFoundError
from nbruntime.generation.record import Generation
from nbruntime.generation.stream_state import BaseStream, StreamState
from nbruntime.protocol.deltas import Delta
from nbruntime.protocol.requests import GenerateRequest

_log = logging.getLogger(__name__)

CANCELLED_PATIENCE = 0.5
"""Seconds that a cancelled task waits for its stream to be left; what takes longer goes on behind it."""

Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]
"""Starts a task, and holds it until it is done."""


class _AsyncStreamCloser:
    """Closes the answer and aborts the request, once.

    A fork of the process has a copy of the stream, and nothing to say about it.

    Whoever waits for that has it done in a task that no cancellation of the reader ends. What nobody waits
    for is abandoned, outside of the event loop: that may be about to end, and its tasks with it.
    """

    def __init__(
        self,
        progress: StreamState,
        close: Callable[[], Awaitable[None]],
        abort: Callable[[Sequence[str]], Awaitable[None]],
        abandon: Callable[[Sequence[str]], None],
        spawn: Spawn,
    ) -> None:
        self.progress = progress
        self._close = close
        self._abort = abort
        self._abandon = abandon
        self._spawn = spawn
        self._leaving: asyncio.Task[None] | None = None
        self._abandoned = False
        self._pid = os.getpid()

    async def abort(self) -> None:
        self.progress.aborted = True
        known = self.progress.rids
        unheard = self.progress.nameless
        if known:
            try:
                await self._abort(known)
            except (NotFoundError, AuthenticationError):  # a router, or only the admin's key may abort
                unheard = True
        if unheard:
            await self.leave()

    def leave(self) -> asyncio.Task[None]:
        """Start to leave, or give the task that does."""
        if self._leaving is None:
            self._leaving = self._spawn(self._leave())
            if not self.progress.over:
                self.progress.aborted = True
        return self._leaving

    async def _leave(self) -> None:
        try:
            try:
                await self._close()
            finally:
                self.progress.end()
                await self._tell()
        except asyncio.CancelledError:  # the loop ends
            self.abandon()
            raise

    async def _tell(self) -> None:
        rids = self._running()
        if rids and not self._abandoned:
            try:
                await self._abort(rids)
            except NbruntimeError as error:
                # The server is away or closed: it notices by the connection as well.
                _log.debug("abort of %s: %s", rids, error)

    def abandon(self) -> None:
        """Leave from any thread, without waiting and without the loop."""
        if self._pid != os.getpid():
            return
        if not self.progress.over:
            self.progress.aborted = True
        self.progress.end()
        self._abandoned = True
        self._abandon(self._running())

    def _running(self) -> tuple[str, ...]:
        """Give the names of what is still running on the server."""
        return self.progress.rids if self.progress.may_run else ()


class AsyncGenerationStream(BaseStream, AsyncIterator[str]):
    """The same as `GenerationStream`, for ``async for`` and ``async with``.

    It is also left when it is garbage-collected, and when the task that reads it was cancelled.

    Parameters
    ----------
    chunks : async iterator of bytes
        The body of the answer as it comes.
    request : GenerateRequest
        What was asked.
    close : async callable
        Closes the answer.
    abort : async callable
        Takes the rids and aborts them on the server.
    abandon : callable
        Closes the answer and aborts the rids that it takes, from any thread, without waiting and without the
        event loop, which may have ended.
    spawn : callable
        Starts a task for a coroutine, and holds it until it is done.
    where, started, cumulative_text, scrub
        As in `GenerationStream`.
    """

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
    ) -> None:
        self._chunks = chunks
        self._reading = asyncio.Lock()  # a view may read while somebody asks for the result
        self._progress = StreamState(
            request, where=where, started=started, cumulative_text=cumulative_text, scrub=scrub
        )
        self._lifeline = _AsyncStreamCloser(self._progress, close, abort, abandon, spawn)
        self._reader: weakref.ref[asyncio.Task[Any]] | None = None
        self._loop = asyncio.get_running_loop()
        self._finalizer = weakref.finalize(self, self._lifeline.abandon)
        self._finalizer.atexit = False

    async def __anext__(self) -> str:
        self._progress.only()
        while True:
            text = (await self._next_delta()).text
            if text:
                return text

    async def indexed(self) -> AsyncIterator[tuple[int, str]]:
        """Iterate over (index, new text) of all answers as they come."""
        async for delta in self.deltas():
            if delta.text:
                yield delta.index, delta.text

    async def deltas(self) -> AsyncIterator[Delta]:
        """Iterate over what every event adds, with its ``meta_info``; also over events without text."""
        while True:
            try:
                yield await self._next_delta()
            except StopAsyncIteration:
                return

    async def _next_delta(self) -> Delta:
        progress = self._progress
        while True:
            with contextlib.suppress(IndexError):
                return progress.pending.popleft()
            if progress.over:
                await self.close()
                if progress.error is not None:
                    raise progress.error
                raise StopAsyncIteration
            await self._receive()

    async def _receive(self) -> None:
        self._note_reader()
        async with self._reading:
            if not self._progress.over:  # another task may have read to the end meanwhile
                await self._receive_alone()

    async def _receive_alone(self) -> None:
        progress = self._progress
        try:
            chunk = await anext(self._chunks, None)
        except NbruntimeError as cause:
            progress.end(cause)
            await self.close()
            if progress.error is not None:
                progress.error.__cause__ = cause
        except BaseException:
            # The task was cancelled, mostly: leave, and do not keep it waiting.
            self._finalizer.detach()
            await asyncio.wait([self._lifeline.leave()], timeout=CANCELLED_PATIENCE)
            raise
        else:
            if chunk is None:
                progress.end()
            else:
                progress.feed(chunk)

    def _note_reader(self) -> None:
        """Remember which task reads: its cancellation may come while it does something else."""
        task = asyncio.current_task()
        if task is not None and (self._reader is None or self._reader() is not task):
            self._reader = weakref.ref(task)
            task.add_done_callback(partial(_after_reader, weakref.ref(self)))

    async def result(self) -> Generation | list[Generation]:
        """Wait for the end and give the record; see `GenerationStream.result`."""
        while not self._progress.over:
            await self._receive()
        self._progress.pending.clear()
        await self.close()
        return self._record()

    async def abort(self) -> None:
        """Stop the generation on the server; what it had sent can still be read."""
        if not self._progress.over:
            await self._lifeline.abort()

    async def close(self) -> None:
        """Leave the stream: close the answer, and stop the generation if it is still running."""
        self._finalizer.detach()
        await asyncio.shield(self._lifeline.leave())

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that the stream belongs to."""
        return self._loop

    def leave_soon(self) -> None:
        """Leave the stream from any thread or loop, without waiting."""
        if self._finalizer.detach() is not None:
            self._lifeline.abandon()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def _after_reader(reference: weakref.ref[AsyncGenerationStream], task: asyncio.Task[Any]) -> None:
    # IPython catches the cancellation of an interrupted cell, so the task itself ends well.
    stream = reference()
    if stream is None or not (task.cancelled() or task.cancelling()):
        return
    if stream._reader is not None and stream._reader() is task and not stream.done:
        stream.leave_soon()
