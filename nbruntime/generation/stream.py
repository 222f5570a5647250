"""A generation while it runs: an iterator of text that can be left at any time.

However a stream is left (``with``, ``close()``, an exception, an interrupt, garbage collection), the
answer is closed and the request is aborted on the server by its rid. Closing alone is not enough: SGLang
notices a lost connection only after two seconds, and not always.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

from nbruntime.errors import (
    ArgumentTypeError,
    GenerationAbortedError,
    NbruntimeError,
    ProtocolError,
    StreamError,
)
from nbruntime.generation.record import Generation, Timings
from nbruntime.protocol.deltas import Delta, DeltaDecoder, Item
from nbruntime.protocol.requests import GenerateRequest, Prompt

_log = logging.getLogger(__name__)


def aborted_on_server(
    generations: Sequence[Generation], *, where: str | None = None
) -> GenerationAbortedError | None:
    """Make the error for answers that end in an abort which the client did not ask for, if any does."""
    for generation in generations:
        reason = generation.finish_reason
        if reason is not None and reason.type == "abort":
            return GenerationAbortedError(
                f"The request was aborted: {reason.message or 'no reason given'}",
                generations=generations,
                status=reason.status_code,
                server_message=reason.message or "",
                where=where,
            )
    return None


class _Progress:
    """What both kinds of stream know: the answers so far, when they came, and how it ended."""

    def __init__(
        self, request: GenerateRequest, *, where: str | None, started: float | None, cumulative_text: bool
    ) -> None:
        self.request = request
        self.where = where
        self.pending: deque[Delta] = deque()
        self.error: NbruntimeError | None = None
        self.aborted = False  # by the client
        self.over = False
        self.may_run = True  # on the server
        self._started = time.perf_counter() if started is None else started
        self._ended: float | None = None
        self._decoder = DeltaDecoder(cumulative_text=cumulative_text)
        self._arrivals: dict[int, list[tuple[float, int]]] = {}

    def feed(self, chunk: bytes) -> None:
        """Take bytes; what they add is then in `pending`."""
        self._add(self._decoder.feed(chunk))
        if self._decoder.done or self._decoder.failure is not None:
            self.end()

    def end(self, cause: BaseException | None = None) -> None:
        """Note that nothing more comes, and why."""
        if self.over:
            return
        self._add(self._decoder.close() if cause is None else [])
        self.over = True
        self._ended = time.perf_counter()
        self.error = self._why(cause)

    def _add(self, deltas: list[Delta]) -> None:
        if not deltas:
            return
        now = time.perf_counter()
        for delta in deltas:
            count = delta.count or (1 if delta.text else 0)
            if count:
                arrivals = self._arrivals.setdefault(delta.index, [])
                if arrivals and arrivals[-1][0] == now:
                    count += arrivals.pop()[1]  # came in the same piece: one arrival
                arrivals.append((now, count))
        self.pending.extend(deltas)

    def _why(self, cause: BaseException | None) -> NbruntimeError | None:
        """Find the error that a stream which is over ended with, if any."""
        failure = self._decoder.failure
        items = self._decoder.items
        finished = sum(item.finish_reason is not None for item in items.values())
        ended = finished >= self.expected or self._decoder.done
        self.may_run = not ended and (failure is None or not failure.from_server)
        partial = self.generations()
        if failure is not None:
            words = failure.message
            what = f"The server sent an error in the stream: {words}"
            hint = None if any(generation.text for generation in partial) else "Nothing was generated."
            if not failure.from_server:
                what, words, hint = f"The stream holds {words}", "", ProtocolError.default_hint
            return StreamError(
                what,
                generations=partial,
                status=failure.status,
                server_message=words,
                where=self.where,
                hint=hint,
            )
        if cause is not None or not ended:
            if self.aborted:
                return None
            reason = "the server closed it" if cause is None else str(getattr(cause, "message", cause))
            tokens = sum(generation.completion_tokens for generation in partial)
            return StreamError(
                f"The stream broke off after {tokens} tokens: {reason}",
                generations=partial,
                where=self.where,
            )
        return None if self.aborted else aborted_on_server(partial, where=self.where)

    @property
    def expected(self) -> int:
        """Answers to come."""
        return len(self.request.prompts) * self.request.samples

    @property
    def rids(self) -> tuple[str, ...]:
        """The names to abort by: those that the server gave, as far as they are known."""
        if self.request.samples == 1:
            return self.request.rids
        return tuple(item.rid for item in self._decoder.items.values() if item.rid is not None)

    def texts(self) -> list[str]:
        items = self._decoder.items
        return [items[index].text if index in items else "" for index in range(self.expected)]

    def generations(self) -> list[Generation]:
        prompts = self.request.prompt_of_answer
        items = self._decoder.items
        return [self._generation(index, items.get(index), prompts[index]) for index in range(self.expected)]

    def _generation(self, index: int, item: Item | None, prompt: Prompt) -> Generation:
        if item is None:
            return Generation("", prompt=prompt, index=index)
        timings = Timings.from_arrivals(self._started, self._arrivals.get(index, ()), self._ended)
        return Generation(
            item.text,
            list(item.output_ids),
            item.meta_info,
            prompt=prompt,
            index=index,
            timings=timings,
            prompt_token_ids=item.prompt_token_ids,
        )

    def only(self) -> None:
        """Refuse to mix the texts of several answers."""
        if self.request.many:
            raise ArgumentTypeError(
                f"This stream has {self.expected} answers, not one text",
                hint="Use indexed(), which gives (index, text), or texts.",
            )

    def describe(self, kind: str) -> str:
        """Say in two lines what the stream is and how far it is."""
        partial = self.generations()
        state = "running"
        if self.error is not None:
            state = f"failed: {self.error.message}"
        elif self.over:
            state = "aborted" if self.aborted else "finished"
        tokens = sum(generation.completion_tokens for generation in partial)
        text = partial[0].text
        shown = text if len(text) <= 76 else "…" + text[-75:]
        many = f", {self.expected} answers" if self.request.many else ""
        return f"{kind} {self.request.rids[0]}: {state}, {tokens} tokens{many}\n  {shown!r}"


class _Stream:
    """What can be read of a stream of either kind, at any time and without waiting."""

    _progress: _Progress

    @property
    def rid(self) -> str:
        """The request's name on the server; of a batch, the first one's."""
        return self._progress.request.rids[0]

    @property
    def rids(self) -> tuple[str, ...]:
        """The names of all prompts' requests."""
        return self._progress.request.rids

    @property
    def text(self) -> str:
        """The text so far; it stays when the stream is left or fails."""
        self._progress.only()
        return self.texts[0]

    @property
    def texts(self) -> list[str]:
        """The texts so far of all answers."""
        return self._progress.texts()

    @property
    def generations(self) -> list[Generation]:
        """The records so far of all answers."""
        return self._progress.generations()

    @property
    def done(self) -> bool:
        """Whether nothing more comes from the server."""
        return self._progress.over

    @property
    def error(self) -> NbruntimeError | None:
        """What the stream failed with, if it did."""
        return self._progress.error

    def __repr__(self) -> str:
        return self._progress.describe(type(self).__name__)

    def _record(self) -> Generation | list[Generation]:
        if self._progress.error is not None:
            raise self._progress.error
        generations = self._progress.generations()
        return generations if self._progress.request.many else generations[0]


class _Lifeline:
    """Closes the answer and aborts the request, once; outlives the stream for the sake of its finalizer."""

    def __init__(
        self, progress: _Progress, close: Callable[[], None], abort: Callable[[Sequence[str]], None]
    ) -> None:
        self.progress = progress
        self._close = close
        self._abort = abort
        self._lock = threading.Lock()
        self._closed = False

    def abort(self) -> None:
        self.progress.aborted = True
        known = self.progress.rids
        if known:
            self._abort(known)
        if len(known) < len(self.progress.request.rids):
            self.leave()  # the server has named the samples, and its names have not come yet

    def leave(self) -> None:
        """Close the answer; if it is not at its end, abort the request as well."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        progress = self.progress
        if not progress.over:
            progress.aborted = True
        try:
            self._close()
        finally:
            progress.end()
            if progress.may_run and progress.rids:
                try:
                    self._abort(progress.rids)
                except NbruntimeError as error:
                    # The server is away or closed: it notices by the connection as well.
                    _log.debug("abort of %s: %s", progress.rids, error)


def _run(action: Callable[[], None]) -> None:
    action()


class GenerationStream(_Stream, Iterator[str]):
    r"""A running generation: an iterator of text, and a context manager that leaves nothing behind.

    Parameters
    ----------
    chunks : iterator of bytes
        The body of the answer as it comes.
    request : GenerateRequest
        What was asked.
    close : callable
        Closes the answer; may be called from any thread.
    abort : callable
        Takes the rids and aborts them on the server.
    where : str, optional
        URL, for errors.
    started : float, optional
        `time.perf_counter` when the request was sent; default is now.
    cumulative_text : bool
        See `nbruntime.protocol.deltas.DeltaDecoder`.
    discard : callable, optional
        Runs the clean-up of a stream that was garbage-collected. Garbage collection happens at any place
        in any thread, where waiting for a lock or a socket may never end: an endpoint hands the clean-up
        to a thread of its own. The default runs it on the spot.

    Examples
    --------
    >>> from nbruntime.protocol.requests import build_generate_request
    >>> body = (
    ...     b'data: {"text":"Hel","output_ids":[5],"meta_info":{"completion_tokens":1}}',
    ...     b'data: {"text":"Hello","output_ids":[5,6],"meta_info":'
    ...     b'{"completion_tokens":2,"finish_reason":{"type":"length","length":2}}}',
    ...     b"data: [DONE]", b"",
    ... )
    >>> chunks = iter([b"\n\n".join(body)])
    >>> request = build_generate_request("Say hello:", stream=True)
    >>> with GenerationStream(chunks, request, close=lambda: None, abort=print) as stream:
    ...     for text in stream:
    ...         print(text, end="|")
    Hel|lo|
    >>> stream.result().completion_tokens
    2
    """

    def __init__(
        self,
        chunks: Iterator[bytes],
        request: GenerateRequest,
        *,
        close: Callable[[], None],
        abort: Callable[[Sequence[str]], None],
        where: str | None = None,
        started: float | None = None,
        cumulative_text: bool = False,
        discard: Callable[[Callable[[], None]], None] = _run,
    ) -> None:
        self._chunks = chunks
        self._progress = _Progress(request, where=where, started=started, cumulative_text=cumulative_text)
        self._lifeline = _Lifeline(self._progress, close, abort)
        self._finalizer = weakref.finalize(self, discard, self._lifeline.leave)
        self._finalizer.atexit = False  # at exit the sockets close by themselves, and the server notices

    def __next__(self) -> str:
        self._progress.only()
        while True:
            text = self._next_delta().text
            if text:
                return text

    def indexed(self) -> Iterator[tuple[int, str]]:
        """Iterate over the texts of all answers as they come.

        Yields
        ------
        (int, str)
            Index of the answer (prompt by prompt, then sample by sample) and its new text.
        """
        for delta in self.deltas():
            if delta.text:
                yield delta.index, delta.text

    def deltas(self) -> Iterator[Delta]:
        """Iterate over what every event adds, with its ``meta_info``; also over events without text."""
        while True:
            try:
                yield self._next_delta()
            except StopIteration:
                return

    def _next_delta(self) -> Delta:
        progress = self._progress
        while not progress.pending:
            if progress.over:
                self._leave()
                if progress.error is not None:
                    raise progress.error
                raise StopIteration
            self._receive()
        return progress.pending.popleft()

    def _receive(self) -> None:
        progress = self._progress
        try:
            chunk = next(self._chunks, None)
        except NbruntimeError as cause:
            progress.end(cause)
            self._leave()
            if progress.error is not None:
                progress.error.__cause__ = cause
        except BaseException:
            self.close()  # an interrupt, mostly
            raise
        else:
            if chunk is None:
                progress.end()
            else:
                progress.feed(chunk)

    def result(self) -> Generation | list[Generation]:
        """Wait for the end and give the record.

        Returns
        -------
        Generation or list of Generation
            A list for a batch or ``n > 1``. After `abort` or `close` it holds what had come.

        Raises
        ------
        GenerationError
            If the stream failed; the error holds what had come.
        """
        while not self._progress.over:
            self._receive()
        self._progress.pending.clear()
        self._leave()
        return self._record()

    def abort(self) -> None:
        """Stop the generation on the server; what it had sent can still be read.

        Safe to call from another thread than the one that reads.
        """
        if not self._progress.over:
            self._lifeline.abort()

    def close(self) -> None:
        """Leave the stream: close the answer, and stop the generation if it is still running."""
        self._leave()

    def _leave(self) -> None:
        if self._finalizer.detach() is not None:
            self._lifeline.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncGenerationStream(_Stream, AsyncIterator[str]):
    """The same as `GenerationStream`, for ``async for`` and ``async with``.

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
    where, started, cumulative_text
        As in `GenerationStream`.

    Notes
    -----
    A task cannot be finished for an object that is gone, so nothing is cleaned up at garbage collection:
    leave it by ``async with`` or `close`.
    """

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        request: GenerateRequest,
        *,
        close: Callable[[], Awaitable[None]],
        abort: Callable[[Sequence[str]], Awaitable[None]],
        where: str | None = None,
        started: float | None = None,
        cumulative_text: bool = False,
    ) -> None:
        self._chunks = chunks
        self._close = close
        self._abort = abort
        self._progress = _Progress(request, where=where, started=started, cumulative_text=cumulative_text)
        self._left = False

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
        while not progress.pending:
            if progress.over:
                await self.close()
                if progress.error is not None:
                    raise progress.error
                raise StopAsyncIteration
            await self._receive()
        return progress.pending.popleft()

    async def _receive(self) -> None:
        progress = self._progress
        try:
            chunk = await anext(self._chunks, None)
        except NbruntimeError as cause:
            progress.end(cause)
            await self.close()
            if progress.error is not None:
                progress.error.__cause__ = cause
        except BaseException:
            await self.close()  # the task was cancelled, mostly
            raise
        else:
            if chunk is None:
                progress.end()
            else:
                progress.feed(chunk)

    async def result(self) -> Generation | list[Generation]:
        """Wait for the end and give the record; see `GenerationStream.result`."""
        while not self._progress.over:
            await self._receive()
        self._progress.pending.clear()
        await self.close()
        return self._record()

    async def abort(self) -> None:
        """Stop the generation on the server; what it had sent can still be read."""
        progress = self._progress
        if progress.over:
            return
        progress.aborted = True
        known = progress.rids
        if known:
            await self._abort(known)
        if len(known) < len(progress.request.rids):
            await self.close()

    async def close(self) -> None:
        """Leave the stream: close the answer, and stop the generation if it is still running."""
        if self._left:
            return
        self._left = True
        progress = self._progress
        if not progress.over:
            progress.aborted = True
        try:
            await self._close()
        finally:
            progress.end()
            if progress.may_run and progress.rids:
                try:
                    await self._abort(progress.rids)
                except NbruntimeError as error:
                    _log.debug("abort of %s: %s", progress.rids, error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
