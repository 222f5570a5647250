"""`GenerationStream`: a running generation that can be left at any time.

However a stream is left (``with``, ``close()``, an exception, an interrupt, garbage collection), it closes
the answer and aborts the request by its rid. Closing is not enough: SGLang notices a lost connection only
after two seconds, and not always.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from nbruntime.errors import AuthenticationError, NbruntimeError, NotFoundError
from nbruntime.generation.interrupts import unwatch, watch
from nbruntime.generation.record import Generation
from nbruntime.generation.step_source import StepSource
from nbruntime.generation.stream_state import BaseStream, StreamState
from nbruntime.protocol.deltas import Delta
from nbruntime.protocol.requests import GenerateRequest

_log = logging.getLogger(__name__)


class _StreamCloser:
    """Closes the answer and aborts the request, once; does nothing in a forked process.

    It is apart from the stream so that the stream's finalizer can call it.
    """

    def __init__(
        self, state: StreamState, close: Callable[[], None], abort: Callable[[Sequence[str]], None]
    ) -> None:
        self.state = state
        self._close = close
        self._abort = abort
        self._lock = threading.RLock()
        self._left = self._aborted = False
        self._pid = os.getpid()

    def abort(self) -> None:
        if self._pid != os.getpid():
            return
        self.state.aborted = True
        known = self.state.rids
        close_instead = self.state.has_unnamed_samples
        if known:
            try:
                self._abort(known)
            except (NotFoundError, AuthenticationError):  # a router, or only the admin's key may abort
                close_instead = True
        if close_instead:
            self.leave()  # a closed connection is the only signal left

    def wake_reader(self) -> None:
        """Close the answer only."""
        with self._lock:
            self._close()

    def leave(self) -> None:
        """Close the answer, and abort a running request; a second call completes an interrupted first one."""
        if self._pid != os.getpid():
            return
        with self._lock:
            if self._left:
                return
            state = self.state
            if not state.over:
                state.aborted = True
            try:
                self._close()
            finally:
                state.end()
                self._abort_running()
            self._left = True

    def _abort_running(self) -> None:
        rids = self.state.rids if self.state.may_run else ()
        if rids and not self._aborted:
            try:
                self._abort(rids)
            except NbruntimeError as error:
                # The server is unreachable or closed; a running one notices the lost connection.
                _log.debug("abort of %s: %s", rids, error)
            self._aborted = True


def _run(action: Callable[[], None]) -> None:
    action()


class GenerationStream(BaseStream, Iterator[str]):
    r"""A running generation: an iterator of text, and a context manager that stops it on exit.

    A finished stream can be copied and pickled, as its record. The copy of a running one holds the text so
    far, and ends with an error that says so.

    Parameters
    ----------
    chunks : iterator of bytes
        The body of the answer as it arrives.
    request : GenerateRequest
    close : callable
        Closes the answer; may be called from any thread.
    abort : callable
        Aborts rids on the server.
    where : str, optional
        URL, for errors.
    started : float, optional
        `time.perf_counter` when the request was sent; default is now.
    cumulative_text : bool
        See `nbruntime.protocol.delta_decoder.DeltaDecoder`.
    scrub : callable, optional
        Masks secrets in the server's error messages.
    discard : callable, optional
        Runs the clean-up of a garbage-collected stream, by default at once. An endpoint uses a thread of its
        own: garbage collection may happen where waiting for a lock or a socket never ends.
    source : StepSource, optional
        Where `Generation.explain` asks for the server's steps.

    Examples
    --------
    >>> from nbruntime.protocol.requests import build_generate_request
    >>> body = (
    ...     b'data: {"text":"Hel","output_ids":[5],"meta_info":{"completion_tokens":1}}\n\n'
    ...     b'data: {"text":"Hello","output_ids":[5,6],"meta_info":{"completion_tokens":2}}\n\n'
    ...     b'data: [DONE]\n\n'
    ... )
    >>> request = build_generate_request("Say hello:", stream=True)
    >>> with GenerationStream(iter([body]), request, close=lambda: None, abort=print) as stream:
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
        source: StepSource | None = None,
    ) -> None:
        self._chunks = chunks
        self._reading = threading.Lock()  # a view may read while the caller waits for the result
        self._state = StreamState(
            request,
            where=where,
            started=started,
            cumulative_text=cumulative_text,
            scrub=scrub,
            source=source,
        )
        self._closer = _StreamCloser(self._state, close, abort)
        self._finalizer = weakref.finalize(self, discard, self._closer.leave)
        self._finalizer.atexit = False  # at exit the sockets close by themselves, and the server notices
        watch(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._state = state["_state"]
        self._chunks, self._reading = iter(()), threading.Lock()
        self._closer = _StreamCloser(self._state, close=lambda: None, abort=lambda rids: None)
        self._finalizer = weakref.finalize(self, _run, self._closer.leave)
        self._finalizer.detach()  # there is nothing to close

    def __next__(self) -> str:
        self._state.require_one_answer()
        while True:
            text = self._next_delta().text
            if text:
                return text

    def indexed(self) -> Iterator[tuple[int, str]]:
        """Iterate over (index, new text) of all answers; indices go prompt by prompt, sample by sample."""
        for delta in self.deltas():
            if delta.text:
                yield delta.index, delta.text

    def deltas(self) -> Iterator[Delta]:
        """Iterate over what every event adds, with its ``meta_info``; events without text included."""
        while True:
            try:
                yield self._next_delta()
            except StopIteration:
                return

    def _next_delta(self) -> Delta:
        watch(self)  # also if nothing has to be received
        state = self._state
        while True:
            try:  # suppress() would take longer than all the rest
                return state.pending.popleft()
            except IndexError:
                pass
            if state.over:
                self._leave()
                if state.error is not None:
                    raise state.error
                raise StopIteration
            self._receive()

    def _receive(self) -> None:
        with self._reading:
            if not self._state.over:  # another thread may have read to the end meanwhile
                self._receive_chunk()

    def _receive_chunk(self) -> None:
        state = self._state
        try:
            chunk = next(self._chunks, None)
        except NbruntimeError as cause:
            state.end(cause)
            self._leave()
        except BaseException:
            self.close()  # most often an interrupt
            raise
        else:
            if chunk is None:
                state.end()
            else:
                state.feed(chunk)

    def result(self) -> Generation | list[Generation]:
        """Wait for the end and return the record; a list for a batch or ``n > 1``.

        After `abort` or `close` it holds the text so far.

        Raises
        ------
        GenerationError
            If the stream failed; its ``generations`` hold the text so far.
        """
        watch(self)
        while not self._state.over:
            self._receive()
        self._state.pending.clear()
        self._leave()
        return self._record()

    def abort(self) -> None:
        """Stop the generation on the server, from any thread; text that has arrived can still be read."""
        if not self._state.over:
            self._closer.abort()

    def close(self) -> None:
        """Close the answer, and stop the generation if it is still running."""
        self._leave()

    def interrupted(self) -> None:
        """Close the stream without waiting; see `nbruntime.generation.interrupts`."""
        finalizer = self._finalizer.detach()
        if finalizer is not None:
            self._state.aborted = True
            _, discard, arguments, _ = finalizer
            discard(*arguments)

    def expire(self, cause: NbruntimeError) -> None:
        """End the stream with an error, in another thread than its reader's: its time is up."""
        finalizer = self._finalizer.detach()
        self._state.end(cause)
        if finalizer is not None:
            self._closer.wake_reader()
            _, discard, arguments, _ = finalizer
            discard(*arguments)  # the reader does not wait for the abort

    def _leave(self) -> None:
        if self._finalizer.alive:
            try:
                self._closer.leave()
            except BaseException:
                self.interrupted()  # the rest is done without waiting
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
