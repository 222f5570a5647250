"""The state of a stream: the answers so far, their arrival times, and its end."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from typing import Any

from nbruntime.display.numbers import token_count
from nbruntime.errors import (
    ArgumentTypeError,
    GenerationAbortedError,
    NbruntimeError,
    ProtocolError,
    StreamError,
    StreamTimeoutError,
)
from nbruntime.generation.display import DisplayMixin
from nbruntime.generation.generations import Generations
from nbruntime.generation.outcome import Outcome, Status, error_line, status_of
from nbruntime.generation.record import Generation
from nbruntime.generation.step_source import StepSource
from nbruntime.generation.timings import Timings
from nbruntime.protocol.delta_decoder import DeltaDecoder
from nbruntime.protocol.deltas import Delta, Item
from nbruntime.protocol.failures import TOO_LONG_HINT, is_too_long
from nbruntime.protocol.requests import GenerateRequest, Prompt


def aborted_on_server(
    generations: Sequence[Generation], *, where: str | None = None
) -> GenerationAbortedError | None:
    """Return the error of the first answer that was aborted, unasked by the client, or None."""
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


_NOT_COPIED = ("_lock", "source", "_when_over")
"""What is of a stream and not of its record: its server, and who waits for its end."""


class StreamState:
    """The state that both kinds of stream share."""

    def __init__(
        self,
        request: GenerateRequest,
        *,
        where: str | None,
        started: float | None,
        cumulative_text: bool,
        scrub: Callable[[str], str],
        source: StepSource | None = None,
    ) -> None:
        self.request = request
        self.source = source
        self.where = where
        self.pending: deque[Delta] = deque()
        self.error: NbruntimeError | None = None
        self.aborted = False  # by the client
        self.over = False
        self.may_run = True  # on the server
        self.started = time.perf_counter() if started is None else started
        self._ended: float | None = None
        self._decoder = DeltaDecoder(cumulative_text=cumulative_text, expected=self.expected, scrub=scrub)
        self._arrivals: dict[int, list[tuple[float, int]]] = {}  # seconds since `started`, new tokens
        self._finished: dict[int, float] = {}
        self._when_over: list[Callable[[], None]] = []
        self._lock = threading.RLock()  # one thread may end the stream while another reads

    def __getstate__(self) -> dict[str, Any]:
        """Copy the answers; the copy of a running stream has failed, since it has no connection."""
        with self._lock:
            state = {name: value for name, value in vars(self).items() if name not in _NOT_COPIED}
            state["pending"] = deque(self.pending)
            if not self.over:
                growing = ("_decoder", "_arrivals", "_finished")
                partial = deepcopy({name: state[name] for name in growing})
                state |= {**partial, "over": True, "may_run": False, "error": self._copied_too_early()}
            return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({"_finished": {}, **state})  # earlier releases have not kept all of it
        self.source, self._when_over, self._lock = None, [], threading.RLock()

    def _copied_too_early(self) -> StreamError:
        partial = self.generations()
        tokens = sum(generation.completion_tokens for generation in partial)
        return StreamError(
            f"The stream was copied or pickled while it ran, after {token_count(tokens)}",
            generations=partial,
            where=self.where,
            hint="Wait for its end with result() first. The text so far is in .text and .generations.",
        )

    def feed(self, chunk: bytes) -> None:
        """Decode bytes into `pending`; ignored after the end."""
        with self._lock:
            if self.over:
                return
            self._add(self._decoder.feed(chunk))
            if self._decoder.done or self._decoder.failure is not None:
                self.end()

    def end(self, cause: BaseException | None = None) -> None:
        """Mark the end of the stream, and its cause."""
        with self._lock:
            if self.over:
                return
            self._add(self._decoder.close() if cause is None else [])
            self._ended = time.perf_counter()
            self.error = self._find_error(cause)
            self.over = True
            called, self._when_over = self._when_over, []
        for function in called:
            function()

    def when_over(self, function: Callable[[], None]) -> None:
        """Call a function once at the end of the stream; at once if it has ended."""
        with self._lock:
            if not self.over:
                self._when_over.append(function)
                return
        function()

    def _add(self, deltas: list[Delta]) -> None:
        if not deltas:
            return
        now = time.perf_counter() - self.started
        for delta in deltas:
            count = delta.count or (1 if delta.text else 0)
            if count:
                arrivals = self._arrivals.setdefault(delta.index, [])
                if arrivals and arrivals[-1][0] == now:
                    count += arrivals.pop()[1]  # same chunk: one arrival
                arrivals.append((now, count))
            if delta.finished:
                self._finished[delta.index] = now
        self.pending.extend(deltas)

    def _find_error(self, cause: BaseException | None) -> NbruntimeError | None:
        """Return the error that the stream ended with, if any."""
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
            if is_too_long(words):
                hint = TOO_LONG_HINT
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
            reason, hint = _describe_cause(cause)
            tokens = sum(generation.completion_tokens for generation in partial)
            kind = StreamTimeoutError if isinstance(cause, TimeoutError) else StreamError
            error = kind(
                f"The stream broke off after {token_count(tokens)}: {reason}",
                generations=partial,
                where=self.where,
                hint=hint,
            )
            error.__cause__ = cause
            return error
        return None if self.aborted else aborted_on_server(partial, where=self.where)

    @property
    def expected(self) -> int:
        """Number of answers that the request asks for."""
        return len(self.request.prompts) * self.request.samples

    @property
    def rids(self) -> tuple[str, ...]:
        """The rids to abort, as far as they are known; the server names samples itself."""
        if self.request.samples == 1:
            return self.request.rids
        items = list(self._decoder.items.values())  # a copy: another thread may be reading
        names = [item.rid for item in items]
        return tuple(name for name in names if name is not None)

    @property
    def has_unnamed_samples(self) -> bool:
        """True if the server runs samples whose rids have not arrived yet."""
        return self.request.samples > 1 and len(self._decoder.items) < self.expected

    def texts(self) -> list[str]:
        """Return the texts so far of all answers."""
        items = self._decoder.items
        return [items[index].text if index in items else "" for index in range(self.expected)]

    def texts_read(self) -> list[str]:
        """Return the texts so far without those in `pending`."""
        texts = self.texts()
        for delta in reversed(tuple(self.pending)):  # a copy: another thread may be reading
            texts[delta.index] = texts[delta.index].removesuffix(delta.text)
        return texts

    def generations(self) -> list[Generation]:
        """Return the records so far of all answers."""
        prompts = self.request.prompt_of_answer
        items = self._decoder.items
        return [self._generation(index, items.get(index), prompts[index]) for index in range(self.expected)]

    def _generation(self, index: int, item: Item | None, prompt: Prompt) -> Generation:
        if item is None:
            return Generation("", prompt=prompt, index=index)
        total = None if self._ended is None else self._ended - self.started
        timings = Timings.from_arrivals(0.0, self._arrivals.get(index, ()), total)
        return Generation(
            item.text,
            list(item.output_ids),
            item.meta_info,
            prompt=prompt,
            index=index,
            timings=timings,
            prompt_token_ids=item.prompt_token_ids,
        ).with_source(self.source)

    def outcomes(self) -> list[Outcome]:
        """Return how each answer has gone so far."""
        with self._lock:
            items = self._decoder.items
            return [self._outcome(index, items.get(index)) for index in range(self.expected)]

    def _outcome(self, index: int, item: Item | None) -> Outcome:
        reason = None if item is None else item.finish_reason
        status: Status = "running"
        if reason is not None:
            status = status_of(reason)
        elif self.over:
            status = "failed" if self.error is not None else "stopped" if self.may_run else "finished"
        own_rid = None if item is None else item.rid
        finished = self._finished.get(index)
        return Outcome(
            own_rid or self.request.rids[index // self.request.samples],
            index,
            status,
            self.started,
            self._ended if finished is None else self.started + finished,
            tuple(self._arrivals.get(index, ())),
            {} if item is None else item.meta_info,
            error_line(self.error) if status == "failed" and self.error is not None else "",
        )

    def require_one_answer(self) -> None:
        """Raise if the stream has several answers."""
        if self.request.many:
            raise ArgumentTypeError(
                f"This stream has {self.expected} answers, not one text",
                hint="Use indexed(), which gives (index, text), or texts.",
            )

    def describe(self, kind: str) -> str:
        """Describe the stream in two lines, for its repr."""
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
        return f"{kind} {self.request.rids[0]}: {state}, {token_count(tokens)}{many}\n  {shown!r}"


def _describe_cause(cause: BaseException | None) -> tuple[str, str | None]:
    """Return why a stream broke off, and a hint if the cause has one of its own."""
    if not isinstance(cause, NbruntimeError):
        return "the server closed it" if cause is None else str(cause), None
    special = cause.hint and cause.hint != cause.default_hint
    hint = f"{cause.hint}\n{StreamError.default_hint}" if special else None
    return cause.message[:1].lower() + cause.message[1:], hint


class BaseStream(DisplayMixin):
    """The properties of both kinds of stream; none of them waits."""

    _state: StreamState

    def __getstate__(self) -> dict[str, Any]:
        # The record alone: no connection, threads or views.
        return {"_state": copy(self._state)}

    @property
    def rid(self) -> str:
        """The request's id on the server; of a batch, the first one's."""
        return self._state.request.rids[0]

    @property
    def rids(self) -> tuple[str, ...]:
        """The request ids of all prompts."""
        return self._state.request.rids

    @property
    def text(self) -> str:
        """The text so far; it stays when the stream is closed or fails."""
        self._state.require_one_answer()
        return self.texts[0]

    @property
    def texts(self) -> list[str]:
        """The texts so far of all answers."""
        return self._state.texts()

    @property
    def texts_read(self) -> list[str]:
        """The texts of all answers as far as they have been read."""
        return self._state.texts_read()

    @property
    def generations(self) -> Generations:
        """The records so far of all answers."""
        return Generations(self._state.generations())

    @property
    def started(self) -> float:
        """`time.perf_counter` when the request was sent."""
        return self._state.started

    def watch(self, when_over: Callable[[], None]) -> Callable[[], list[Outcome]]:
        """Call a function once nothing more arrives from the server.

        Returns a function that tells how the answers have gone so far; it does not keep the stream alive.
        """
        self._state.when_over(when_over)
        return self._state.outcomes

    @property
    def done(self) -> bool:
        """True if nothing more arrives from the server."""
        return self._state.over

    @property
    def error(self) -> NbruntimeError | None:
        """The error that the stream failed with, or None."""
        return self._state.error

    def __repr__(self) -> str:
        return self._state.describe(type(self).__name__)

    def _record(self) -> Generation | list[Generation]:
        if self._state.error is not None:
            raise self._state.error
        generations = self.generations
        return generations if self._state.request.many else generations[0]
