"""What a profile and a load test note of each request and of the server's load."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from nbruntime.generation.outcome import Status
from nbruntime.protocol.load import Load

__all__ = ["LoadSample", "Phases", "RequestRecord", "Status"]


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One sequence of one request, as its client saw it.

    A batch, and ``n > 1``, give a record for each sequence.

    Parameters
    ----------
    rid : str
        Name of the request on the server.
    sent, ended : float
        Unix times of sending the request, and of its end.
    arrivals : tuple of (float, int)
        For each event with new tokens: seconds since `sent`, and the number of new tokens. Empty if it was
        not streamed.
    status : str
        ``"finished"``, ``"stopped"`` (left or aborted by the client), ``"failed"`` or ``"running"``.
    route : str
        ``"/generate"`` or ``"/encode"``.
    index : int
        Place among the sequences of its request.
    prompt_tokens, cached_tokens, completion_tokens : int
        Counts of the server.
    finish : str
        Type of the finish reason; empty if it has none.
    error : str
        Class and first line of the error of a failed request.
    server_times : dict
        Times in ``meta_info`` by SGLang's names, by the server's clock.
    retractions : int
        Times that the server put it back into the queue.
    scheduled : float or None
        Unix time at which a load test meant to send it.
    """

    rid: str
    sent: float
    ended: float
    arrivals: tuple[tuple[float, int], ...] = ()
    status: Status = "finished"
    route: str = "/generate"
    index: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    finish: str = ""
    error: str = ""
    server_times: dict[str, float] = field(default_factory=dict)
    retractions: int = 0
    scheduled: float | None = None

    @property
    def e2e(self) -> float:
        """Seconds from sending the request to its end."""
        return self.ended - self.sent

    @property
    def ttft(self) -> float | None:
        """Seconds from sending the request to the first event with a token; None if not streamed."""
        return self.arrivals[0][0] if self.arrivals else None

    @property
    def itl(self) -> tuple[float, ...]:
        """Seconds between events with tokens, as SGLang's ``bench_serving`` measures them."""
        return tuple(later - earlier for (earlier, _), (later, _) in pairwise(self.arrivals))

    @property
    def tpot(self) -> float | None:
        """Time per output token after the first, (E2E - TTFT) / (n - 1); None for fewer than two tokens."""
        if self.ttft is None or self.completion_tokens < 2:
            return None
        # Unix times are exact to a part of a microsecond, so that less is nothing, and nothing is negative.
        return max(round(self.e2e - self.ttft, 6), 0.0) / (self.completion_tokens - 1)

    @property
    def new_prompt_tokens(self) -> int:
        """Prompt tokens that were not in the cache."""
        return max(self.prompt_tokens - self.cached_tokens, 0)

    @property
    def lateness(self) -> float | None:
        """Seconds between the scheduled and the real sending; None outside of a load test."""
        return None if self.scheduled is None else self.sent - self.scheduled

    def tokens_by(self) -> list[tuple[float, int]]:
        """Return (Unix time, tokens so far) for each event."""
        totals = accumulate(count for _, count in self.arrivals)
        return [(self.sent + at, total) for (at, _), total in zip(self.arrivals, totals, strict=True)]


@dataclass(frozen=True, slots=True)
class LoadSample:
    """The load of a server at a time.

    Parameters
    ----------
    at : float
        Unix time of the client.
    load : Load
        All ranks together (`nbruntime.profiling.monitor.whole_load`).
    """

    at: float
    load: Load


@dataclass(frozen=True, slots=True)
class Phases:
    """The parts of one request's time, in Unix times of the client's clock.

    Without the server's own times, `queued` equals `sent`, `prefill` is None, and the time to the first
    token cannot be divided.

    Parameters
    ----------
    sent, ended : float
        As in `RequestRecord`.
    received : float or None
        The server took the request in.
    prefill : float or None
        Its first forward pass began.
    decode : float or None
        Its prompt was computed: the first token could be chosen.
    """

    sent: float
    ended: float
    received: float | None = None
    prefill: float | None = None
    decode: float | None = None
