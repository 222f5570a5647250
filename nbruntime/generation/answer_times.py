"""What is known of the time of one answer, by its client and in its ``meta_info``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_LATEST = 1e12
"""A Unix time in a distant future; what is later is no time."""


@dataclass(frozen=True, slots=True)
class AnswerTimes:
    """What is known of the time of one answer; all but the step log.

    Parameters
    ----------
    rid : str or None
        Name on the server.
    total, ttft, last_arrival : float or None
        Seconds from sending to the end, to the first and to the last token, by the client; the last two are
        None if it was not streamed.
    server_times : mapping
        Times of ``meta_info`` by SGLang's names (`nbruntime.generation.record.SERVER_TIMES`).
    prompt_tokens, cached_tokens, completion_tokens : int
        Counts of the server.
    retractions : int
        Times that the server put it back into the queue.
    siblings : int
        Other answers of the same request.
    """

    rid: str | None = None
    total: float | None = None
    ttft: float | None = None
    last_arrival: float | None = None
    server_times: Mapping[str, float] = field(default_factory=dict)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    retractions: int = 0
    siblings: int = 0

    def time(self, name: str) -> float | None:
        """Return one of the server's times; None if it is not known, which servers may write as 0."""
        value = self.server_times.get(name)
        return value if isinstance(value, int | float) and 0 < value < _LATEST else None

    @property
    def received(self) -> float | None:
        """When the server received it, by its clock."""
        return self.time("request_received_ts")

    @property
    def entered(self) -> float | None:
        """When its first forward pass began."""
        return self.time("forward_entry_time")

    @property
    def prefilled(self) -> float | None:
        """When its prompt was computed."""
        return self.time("prefill_finished_time")

    @property
    def ended_in_prefill(self) -> bool:
        """Whether it was aborted while its prompt was computed."""
        return self.entered is not None and self.prefilled is None and not self.completion_tokens

    @property
    def finished(self) -> float | None:
        """When the server had finished it; None for an answer that was left."""
        return self.time("request_finished_ts")

    @property
    def computing(self) -> float | None:
        """Seconds from its first forward pass to its end on the server, or to when the client left it."""
        if self.entered is None:
            return None
        if self.finished is not None:
            return max(self.finished - self.entered, 0.0)
        if self.total is None:
            return None
        if self.ttft is None or self.prefilled is None:
            return self.total
        return max(self.prefilled - self.entered, 0.0) + max(self.total - self.ttft, 0.0)

    @property
    def queue_time(self) -> float:
        """Seconds in the queue, as the server counts them."""
        return self.time("queue_time") or 0.0

    @property
    def new_prompt_tokens(self) -> int:
        """Prompt tokens that were not in the cache."""
        return max(self.prompt_tokens - self.cached_tokens, 0)

    @property
    def decoded_tokens(self) -> int:
        """Tokens after the first one, which prefill gives."""
        return max(self.completion_tokens - 1, 0)

    @property
    def after_last(self) -> float:
        """Seconds from the last token to the end; 0 if it was not streamed."""
        if self.total is None or self.last_arrival is None:
            return 0.0
        return max(self.total - self.last_arrival, 0.0)
