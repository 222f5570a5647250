"""The figures of a number of requests: counts, latencies, rates and concurrency.

The definitions are those of SGLang 0.5.23's ``bench_serving`` (``benchmark/serving.py``). Latencies are those
of finished requests only: failed and stopped requests are counted apart. Tokens are counted wherever they
arrived, also those of stopped requests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter

import numpy as np

from nbruntime.profiling.records import RequestRecord

DEFINITIONS = (
    ("TTFT", "time to first token: from sending the request to its first event with a token"),
    ("ITL", "inter-token latency: time between two events with tokens; an event may hold several"),
    ("TPOT", "time per output token after the first: (E2E - TTFT) / (tokens - 1)"),
    ("E2E", "from sending the request to its end"),
    ("wall", "from the first sending to the last end"),
    ("tokens/s", "generated tokens / wall"),
    ("concurrency", "requests at once on average: sum of E2E / wall"),
    ("cache hits", "cached prompt tokens / prompt tokens"),
)
"""What the figures mean, as pages and cards print it; latencies are those of finished requests."""

MOST_SHOWN = 6
"""Values in the repr of a distribution."""

_IN_REPR = (
    *("finished", "stopped", "failed", "ttft.median", "itl.median", "tpot.median", "e2e.median"),
    *("token_rate", "concurrency", "cache_hit_share"),
)


class Distribution:
    """Measured values and their quantiles; every figure of an empty one is None.

    Parameters
    ----------
    values : iterable of float
        In any order.

    Examples
    --------
    >>> times = Distribution([0.3, 0.1, 0.2])
    >>> len(times), times.median, times.maximum
    (3, 0.2, 0.3)
    """

    __slots__ = ("values",)

    def __init__(self, values: Iterable[float]) -> None:
        self.values = np.sort(np.fromiter(values, float))

    def __len__(self) -> int:
        return len(self.values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Distribution):
            return NotImplemented
        return np.array_equal(self.values, other.values)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(f"{value:g}" for value in self.values[:MOST_SHOWN])
        left_out = len(self) - MOST_SHOWN
        return f"Distribution([{shown}{f', … {left_out:,} more' if left_out > 0 else ''}])"

    def quantile(self, share: float) -> float | None:
        """Return the value that a share of all do not exceed, interpolated as `numpy.quantile` does."""
        return float(np.quantile(self.values, share)) if len(self.values) else None

    @property
    def mean(self) -> float | None:
        """Arithmetic mean."""
        return float(np.mean(self.values)) if len(self.values) else None

    @property
    def median(self) -> float | None:
        """The value in the middle."""
        return self.quantile(0.5)

    @property
    def maximum(self) -> float | None:
        """The largest value."""
        return float(self.values[-1]) if len(self.values) else None


@dataclass(frozen=True)
class Figures:
    """The figures of a number of requests; times are in seconds.

    Examples
    --------
    >>> figures = Figures([
    ...     RequestRecord("a", 10.0, 12.0, ((0.5, 1), (1.0, 1)), prompt_tokens=4, completion_tokens=2),
    ...     RequestRecord("b", 11.0, 14.0, status="failed", error="ServerBusyError: full"),
    ... ])
    >>> figures.finished, figures.failed, figures.ttft.median, figures.wall
    (1, 1, 0.5, 4.0)
    >>> figures.token_rate, figures.concurrency
    (0.5, 0.5)
    >>> figures  # doctest: +ELLIPSIS
    Figures(finished=1, stopped=0, failed=1, ttft.median=0.5, ...)
    """

    requests: Sequence[RequestRecord]

    def __repr__(self) -> str:
        values = ((name, attrgetter(name)(self)) for name in _IN_REPR)
        shown = (f"{name}={value:.4g}" for name, value in values if value is not None)
        return f"Figures({', '.join(shown)})"

    @cached_property
    def counts(self) -> Counter[str]:
        """Number of sequences by status."""
        return Counter(each.status for each in self.requests)

    @property
    def finished(self) -> int:
        """Sequences that ended by themselves."""
        return self.counts["finished"]

    @property
    def stopped(self) -> int:
        """Sequences that the client left or aborted."""
        return self.counts["stopped"]

    @property
    def failed(self) -> int:
        """Sequences that ended by an error."""
        return self.counts["failed"]

    @property
    def running(self) -> int:
        """Sequences that have not ended."""
        return self.counts["running"]

    @cached_property
    def measured(self) -> list[RequestRecord]:
        """The finished requests, whose latencies count."""
        return [each for each in self.requests if each.status == "finished"]

    @cached_property
    def wall(self) -> float:
        """Seconds from the first sending to the last end."""
        if not self.requests:
            return 0.0
        return max(each.ended for each in self.requests) - min(each.sent for each in self.requests)

    @cached_property
    def active(self) -> float:
        """Seconds in which at least one request was open."""
        return union_length((each.sent, each.ended) for each in self.requests)

    @cached_property
    def prompt_tokens(self) -> int:
        """Prompt tokens of all requests."""
        return sum(each.prompt_tokens for each in self.requests)

    @cached_property
    def cached_tokens(self) -> int:
        """Prompt tokens that were in the server's cache."""
        return sum(each.cached_tokens for each in self.requests)

    @cached_property
    def completion_tokens(self) -> int:
        """Generated tokens of all requests."""
        return sum(each.completion_tokens for each in self.requests)

    @cached_property
    def ttft(self) -> Distribution:
        """From sending a request to its first event with a token; of requests that were streamed."""
        return Distribution(each.ttft for each in self.measured if each.ttft is not None)

    @cached_property
    def itl(self) -> Distribution:
        """Time between two events with tokens, of all requests together."""
        return Distribution(gap for each in self.measured for gap in each.itl)

    @cached_property
    def tpot(self) -> Distribution:
        """(E2E - TTFT) / (tokens - 1) of each request with two tokens or more."""
        return Distribution(each.tpot for each in self.measured if each.tpot is not None)

    @cached_property
    def e2e(self) -> Distribution:
        """From sending a request to its end."""
        return Distribution(each.e2e for each in self.measured)

    @property
    def request_rate(self) -> float | None:
        """Finished requests per second of `wall`."""
        return self._per_second(self.finished)

    @property
    def token_rate(self) -> float | None:
        """Generated tokens per second of `wall`."""
        return self._per_second(self.completion_tokens)

    @property
    def prompt_token_rate(self) -> float | None:
        """Prompt tokens, cached ones included, per second of `wall`."""
        return self._per_second(self.prompt_tokens)

    @property
    def concurrency(self) -> float | None:
        """Finished requests at once on average: sum of E2E / wall."""
        return self._per_second(float(np.sum(self.e2e.values)))

    @property
    def cache_hit_share(self) -> float | None:
        """Part of the prompt tokens that were in the server's cache, from 0 to 1."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else None

    def _per_second(self, amount: float) -> float | None:
        return amount / self.wall if self.wall > 0 else None


def union_length(intervals: Iterable[tuple[float, float]]) -> float:
    """Return the time that at least one interval covers.

    Examples
    --------
    >>> union_length([(0.0, 2.0), (1.0, 3.0), (5.0, 6.0)])
    4.0
    """
    covered, until = 0.0, -float("inf")
    for start, end in sorted(intervals):
        covered += max(end - max(start, until), 0.0)
        until = max(until, end)
    return covered
