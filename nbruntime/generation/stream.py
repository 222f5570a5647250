"""A generation while it runs: an iterator of text that can be left at any time.

However a stream is left (``with``, ``close()``, an exception, an interrupt, garbage collection), the
answer is closed and the request is aborted on the server by its rid. Closing alone is not enough: SGLang
notices a lost connection only after two seconds, and not always.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

from nbruntime.errors import AuthenticationError, NbruntimeError, NotFoundError
from nbruntime.generation.interrupts import unwatch, watch
from nbruntime.generation.record import Generation
from nbruntime.generation.stream_state import BaseStream, StreamState
from nbruntime.protocol.deltas import Delta
from nbruntime.protocol.requests import GenerateRequest

_log = logging.getLogger(__name__)


class _StreamCloser:
    """Closes the answer and aborts the request, once; outlives the stream for the sake of its finalizer.

    A fork of the process has a copy of the stream, and nothing to say about it.
    """

    def __init__(
        self, progress: StreamState, close: Callable[[], None], abort: Callable[[Sequence[str]], None]
    ) -> None:
        self.progress = progress
        self._close = close
        self._abort = abort
        self._lock = threading.RLock()
        self._left = self._told = False
        self._pid = os.getpid()

    def abort(self) -> None:
        if self._pid != os.getpid():
            return
        self.progress.aborted = True
        known = self.progress.rids
        unheard = self.progress.nameless
        if known:
            try:
                self._abort(known)
            except (NotFoundError, AuthenticationError):  # a router, or only the admin's key may abort
                unheard = True
        if unheard:
            self.leave()  # a closed connection is all that the server can be told

    def leave(self) -> None:
        """Close the answer; if it is not at its end, abort the request as well.

        Called again it does what an interrupt has kept it from doing.
        """
        if self._pid != os.getpid():
            return
        with self._lock:
            if self._left:
                return
            progress = self.progress
            if not progress.over:
                progress.aborted = True
            try:
                self._close()
            finally:
                progress.end()
                self._tell()
            self._left = True

    def _tell(self) -> None:
        rids = self.progress.rids if self.progress.may_run else ()
        if rids and not self._told:
            try:
                self._abort(rids)
            except NbruntimeError as error:
                # The server is away or closed: it notices by the connection as well.
                _log.debug("abort of %s: %s", rids, error)
            self._told = True


def _run(action: Callable[[], None]) -> None:
    action()


class GenerationStream(BaseStream, Iterator[str]):
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
        See `nbruntime.protocol.delta_decoder.DeltaDecoder`.
    scrub : callable, optional
        Masks secrets in the server's words about a failure.
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
        scrub: Callable[[str], str] = str,
        discard: Callable[[Callable[[], None]], None] = _run,
    ) -> None:
        self._chunks = chunks
        self._reading = threading.Lock()  # a view may read while somebody asks for the result
        self._progress = StreamState(
            request, where=where, started=started, cumulative_text=cumulative_text, scrub=scrub
        )
        self._lifeline = _StreamCloser(self._progress, close, abort)
        self._finalizer = weakref.finalize(self, discard, self._lifeline.leave)
        self._finalizer.atexit = False  # at exit the sockets close by themselves, and the server notices
        watch(self)

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
        while True:
            with contextlib.suppress(IndexError):
                return progress.pending.popleft()
            if progress.over:
                self._leave()
                if progress.error is not None:
                    raise progress.error
                raise StopIteration
            self._receive()

    def _receive(self) -> None:
        watch(self)
        with self._reading:
            if not self._progress.over:  # another thread may have read to the end meanwhile
                self._receive_alone()

    def _receive_alone(self) -> None:
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

    def interrupted(self) -> None:
        """Leave the stream without waiting; see `nbruntime.generation.interrupts`."""
        finalizer = self._finalizer.detach()
        if finalizer is not None:
            self._progress.aborted = True
            _, discard, arguments, _ = finalizer
            discard(*arguments)

    def _leave(self) -> None:
        if self._finalizer.alive:
            try:
                self._lifeline.leave()
            except BaseException:
                self.interrupted()  # what is left to do is done without waiting
                raise
            self._finalizer.detach()
        unwatch(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
