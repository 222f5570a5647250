"""One sequence in the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nbruntime.embedded.cache.token_cache import Span
from nbruntime.embedded.clock import now
from nbruntime.embedded.sampling.logprobs import LogprobRecord, LogprobRequest
from nbruntime.embedded.sampling.sampler import SamplingState
from nbruntime.embedded.text.stream import TextStream
from nbruntime.protocol.sampling import SamplingParams


@dataclass(slots=True)
class Times:
    """When a request reached each stage, in seconds of `clock.now`; 0 before that."""

    received: float = 0.0
    dispatched: float = 0.0
    forward_entry: float = 0.0
    prefill_finished: float = 0.0
    first_token: float = 0.0
    finished: float = 0.0


@dataclass(frozen=True, slots=True)
class Update:
    """New output of a request since its last update."""

    text: str  # the whole text so far
    token_ids: list[int]  # new tokens
    logprobs: LogprobRecord | None  # of the new tokens
    finish_reason: dict[str, Any] | None  # in SGLang's form, once the request has ended


@dataclass(slots=True, eq=False)
class Request:
    """A prompt and its growing answer."""

    rid: str
    prompt_ids: list[int]
    params: SamplingParams
    sampling: SamplingState
    stream: TextStream
    deliver: Callable[[Update], None]  # called where the engine's `post` runs it
    streaming: bool = False  # updates are wanted before the end
    stream_interval: int = 1  # tokens per update
    logprobs: LogprobRequest | None = None
    embedding: bool = False  # the prompt's last hidden state is wanted instead of an answer
    group: object = None  # shared by the requests of one HTTP request, for fair queuing

    output_ids: list[int] = field(default_factory=list)
    span: Span = field(default_factory=Span)
    computed: int = 0  # tokens whose keys and values are in the cache
    cached_tokens: int = 0  # prompt tokens that were in the cache at admission
    retractions: int = 0
    input_logprobs: LogprobRecord = field(default_factory=LogprobRecord)
    hidden_state: list[float] | None = None
    finish_reason: dict[str, Any] | None = None
    times: Times = field(default_factory=Times)
    new_logprobs: LogprobRecord = field(default_factory=LogprobRecord)  # of tokens not delivered yet
    _delivered: int = 0

    @property
    def token_ids(self) -> list[int]:
        """Tokens of prompt and answer."""
        return self.prompt_ids + self.output_ids

    @property
    def length(self) -> int:
        """Number of tokens of prompt and answer."""
        return len(self.prompt_ids) + len(self.output_ids)

    def append(self, token_id: int) -> None:
        """Add a chosen token; finish the request if a stop string, an end token or the length ends it."""
        params, stream = self.params, self.stream
        if not self.output_ids:
            self.times.first_token = now()
        self.output_ids.append(token_id)
        self.sampling.accept(token_id)
        stop = stream.find_stop(token_id)
        is_end = stop is None and self.sampling.ends_with(token_id)
        if params.no_stop_trim or not is_end:
            stream.push(token_id)
        if stop is not None:
            stream.cut(stop, keep=params.no_stop_trim)
            self.finish({"type": "stop", "matched": stop})
        elif is_end:
            stream.flush()
            self.finish({"type": "stop", "matched": token_id})
        elif params.max_new_tokens is not None and len(self.output_ids) >= params.max_new_tokens:
            stream.flush()
            self.finish({"type": "length", "length": len(self.output_ids)})

    def finish(self, reason: dict[str, Any]) -> None:
        """End the request; the first reason counts."""
        if self.finish_reason is None:
            self.finish_reason = reason
            self.times.finished = now()

    def abort(self, message: str = "Aborted", *, status: int | None = None) -> None:
        """End the request early; `status` is the HTTP status if the abort is an error."""
        if self.finish_reason is None:
            self.stream.flush()
        error_type = None if status is None else "BadRequestError" if status < 500 else "InternalServerError"
        self.finish({"type": "abort", "message": message, "status_code": status, "err_type": error_type})

    def wants_update(self) -> bool:
        """Tell whether there is something to deliver now."""
        if self.finish_reason is not None:
            return True
        if not self.streaming or len(self.output_ids) == self._delivered:
            return False
        due = len(self.output_ids) % self.stream_interval == 0 or self._delivered == 0
        return due and not self.stream.may_be_stopping()

    def take_update(self) -> Update:
        """Give the new output, once."""
        update = Update(
            text=self.stream.text,
            token_ids=self.output_ids[self._delivered :],
            logprobs=self.new_logprobs if self.logprobs is not None else None,
            finish_reason=self.finish_reason,
        )
        self._delivered = len(self.output_ids)
        self.new_logprobs = LogprobRecord()
        return update
