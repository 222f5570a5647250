"""The figures of one run of a load test, over its steady state.

Latencies are those of the finished requests that were sent in the steady state. Rates are what came within
it, whenever its request was sent. Over a whole run both are those of SGLang 0.5.23's ``bench_serving``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nbruntime.profiling.bench.results.goodput import met_all, met_each
from nbruntime.profiling.bench_run import BenchRun
from nbruntime.profiling.confidence import (
    Interval,
    grouped_quantile_interval,
    quantile_interval,
    rate_interval,
    share_interval,
)
from nbruntime.profiling.figures import Distribution, Figures
from nbruntime.profiling.records import RequestRecord

DEFINITIONS = (
    ("steady state", "the time after the warm-up and before the last requests run out"),
    ("requests", "sent in the steady state; their latencies count if they finished"),
    ("TTFT", "time to first token: from sending the request to its first event with a token"),
    ("ITL", "inter-token latency: time between two events with tokens; an event may hold several"),
    ("TPOT", "time per output token after the first: (E2E - TTFT) / (tokens - 1)"),
    ("E2E", "from sending the request to its end"),
    ("tokens/s", "generated tokens that arrived in the steady state / its length; not of failed requests"),
    ("tokens/s each", "1 / TPOT"),
    ("peak", "most tokens in a second of the steady state"),
    ("requests/s", "requests that finished in the steady state / its length"),
    ("concurrency", "requests at once on average: their time within the steady state / its length"),
    (
        "goodput",
        "requests per second that met every threshold; failed ones missed it, stopped ones are left out",
    ),
    (
        "held",
        "as many requests as the share in brackets met every threshold, the queue did not grow, and half of "
        "the requests waited less than 0.1 s for a place where places are limited",
    ),
    ("queue grows", "TTFT rises by 0.02 s a second or more, certainly, and so do the requests under way"),
    ("knee", "the load with the most throughput for its latency: tokens/s / median E2E"),
    ("lateness", "how much later than scheduled the client sent a request"),
    (
        "intervals",
        "95 %, bootstrap: drawn anew are requests with all their events, for rates tenths of the time",
    ),
)
"""What the figures mean, as cards print it."""


@dataclass(frozen=True)
class RunFigures:
    """The figures of a run; times are in seconds.

    Parameters
    ----------
    run : BenchRun
        The run.
    thresholds : mapping of str to float
        Thresholds by the names of `nbruntime.profiling.bench.results.goodput.THRESHOLDS`.

    Examples
    --------
    >>> requests = [
    ...     RequestRecord("a", 10.0, 12.0, ((0.5, 1), (1.0, 1)), completion_tokens=2),
    ...     RequestRecord("b", 11.0, 14.0, status="failed"),
    ... ]
    >>> run = BenchRun("", "", "", "closed", None, 2, 10.0, 14.0, (10.0, 14.0), requests)
    >>> figures = RunFigures(run, {"ttft": 0.6})
    >>> figures.ttft.median, figures.token_rate, figures.request_rate, figures.attainment
    (0.5, 0.5, 0.25, 0.5)
    """

    run: BenchRun
    thresholds: Mapping[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Length of the steady state."""
        start, end = self.run.steady
        return max(end - start, 0.0)

    @cached_property
    def requests(self) -> list[RequestRecord]:
        """The requests that were sent in the steady state, however they ended."""
        start, end = self.run.steady
        return [each for each in self.run.requests if start <= each.sent <= end]

    @cached_property
    def _counted(self) -> Figures:
        return Figures(self.requests)

    @property
    def finished(self) -> int:
        """Counted requests that ended by themselves."""
        return self._counted.finished

    @property
    def failed(self) -> int:
        """Counted requests that ended by an error."""
        return self._counted.failed

    @property
    def stopped(self) -> int:
        """Counted requests that the test stopped."""
        return self._counted.stopped + self._counted.running

    @property
    def measured(self) -> list[RequestRecord]:
        """The counted requests that finished: their latencies are measured."""
        return self._counted.measured

    @property
    def ttft(self) -> Distribution:
        """From sending a request to its first event with a token."""
        return self._counted.ttft

    @property
    def tpot(self) -> Distribution:
        """(E2E - TTFT) / (tokens - 1) of each request with two tokens or more."""
        return self._counted.tpot

    @property
    def itl(self) -> Distribution:
        """Time between two events with tokens, of all requests together."""
        return self._counted.itl

    @property
    def e2e(self) -> Distribution:
        """From sending a request to its end."""
        return self._counted.e2e

    @cached_property
    def lateness(self) -> Distribution:
        """Time between the scheduled and the real sending, of all counted requests."""
        return Distribution(late for each in self.requests if (late := each.lateness) is not None)

    @property
    def tokens_per_second_each(self) -> float | None:
        """1 / median TPOT: the tokens per second of one request, after its first token."""
        tpot = self.tpot.median
        return 1 / tpot if tpot else None

    @property
    def tokens_per_event(self) -> float | None:
        """Tokens in an event on average; above 1, ITL is not a time per token."""
        events = sum(len(each.arrivals) for each in self.measured)
        tokens = sum(count for each in self.measured for _, count in each.arrivals)
        return tokens / events if events else None

    @property
    def request_rate(self) -> float | None:
        """Requests per second that finished in the steady state."""
        start, end = self.run.steady
        ended = [start <= each.ended <= end for each in self.run.requests if each.status == "finished"]
        return self._per_second(sum(ended))

    @property
    def token_rate(self) -> float | None:
        """Generated tokens per second of the steady state."""
        times, tokens = self._events
        return self._per_second(float(tokens[self._inside(times)].sum()))

    @property
    def prompt_token_rate(self) -> float | None:
        """Prompt tokens of the counted requests, cached ones included, per second."""
        return self._per_second(sum(each.prompt_tokens for each in self.requests if each.status != "failed"))

    @property
    def total_token_rate(self) -> float | None:
        """Prompt tokens and generated tokens per second."""
        prompt, generated = self.prompt_token_rate, self.token_rate
        return None if prompt is None or generated is None else prompt + generated

    @property
    def peak_token_rate(self) -> float | None:
        """Most generated tokens in a second of the steady state; None if it is shorter than a second."""
        if self.seconds < 1:
            return None
        times, tokens = self._events
        seconds = np.floor(times - self.run.steady[0]).astype(np.int64)
        inside = self._inside(times)
        return float(np.bincount(seconds[inside], tokens[inside], minlength=1).max())

    @property
    def concurrency(self) -> float | None:
        """Requests at once, on average over the steady state."""
        start, end = self.run.steady
        return self._per_second(
            sum(max(min(each.ended, end) - max(each.sent, start), 0.0) for each in self._answered)
        )

    @property
    def peak_concurrency(self) -> int:
        """Most requests at once in the steady state."""
        start, end = self.run.steady
        during = [each for each in self._answered if each.sent < end and each.ended > start]
        changes = sorted(change for each in during for change in ((each.sent, 1), (each.ended, -1)))
        return int(max(np.cumsum([step for _, step in changes]), default=0))

    @cached_property
    def met(self) -> int:
        """Counted requests that met every threshold."""
        return sum(met is True for met in self._judged)

    @cached_property
    def missed(self) -> int:
        """Counted requests that missed a threshold, failed ones among them."""
        return sum(met is False for met in self._judged)

    @property
    def attainment(self) -> float | None:
        """Part of the requests that met every threshold, from 0 to 1; None if none could be judged."""
        judged = self.met + self.missed
        return self.met / judged if judged and self.thresholds else None

    def attainment_of(self, threshold: str) -> float | None:
        """Return the part of the requests that met one threshold."""
        limits = {threshold: self.thresholds[threshold]}
        judged = [met for each in self.requests if (met := met_each(each, limits)[threshold]) is not None]
        return sum(judged) / len(judged) if judged else None

    @property
    def goodput(self) -> float | None:
        """Requests per second of the steady state that met every threshold; None without thresholds."""
        return self._per_second(self.met) if self.thresholds else None

    def interval(self, name: str, quantile: float = 0.5) -> Interval | None:
        """Return the 95 % interval of a figure; None if the data is too little.

        Parameters
        ----------
        name : str
            ``"ttft"``, ``"tpot"``, ``"itl"`` or ``"e2e"``, of which `quantile` says which quantile; or
            ``"token_rate"``, ``"request_rate"`` or ``"attainment"``.
        quantile : float
            From 0 to 1.
        """
        start, end = self.run.steady
        match name:
            case "ttft" | "tpot" | "e2e":
                return quantile_interval(getattr(self, name).values, quantile)
            case "itl":
                return grouped_quantile_interval([each.itl for each in self.measured], quantile)
            case "token_rate":
                return rate_interval(*self._events, start, end)
            case "request_rate":
                ends = np.array([each.ended for each in self.run.requests if each.status == "finished"])
                return rate_interval(ends, np.ones(len(ends)), start, end)
            case "attainment":
                return share_interval(self.met, self.met + self.missed)
        raise KeyError(name)

    @cached_property
    def _answered(self) -> list[RequestRecord]:
        """All requests of the run but the failed ones, of which `bench_serving` counts nothing."""
        return [each for each in self.run.requests if each.status != "failed"]

    @cached_property
    def _judged(self) -> list[bool | None]:
        return [met_all(each, self.thresholds) for each in self.requests]

    @cached_property
    def _events(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Times and tokens of all events; together they have the tokens that the server counted."""
        times: list[float] = []
        tokens: list[float] = []
        for each in self._answered:
            arrived = sum(count for _, count in each.arrivals)
            if not arrived:  # not streamed
                times.append(each.ended)
                tokens.append(each.completion_tokens)
                continue
            scale = each.completion_tokens / arrived if each.status == "finished" else 1.0
            times.extend(each.sent + at for at, _ in each.arrivals)
            tokens.extend(count * scale for _, count in each.arrivals)
        return np.array(times), np.array(tokens)

    def _inside(self, times: NDArray[np.float64]) -> NDArray[np.bool_]:
        start, end = self.run.steady
        return (times >= start) & (times <= end)

    def _per_second(self, amount: float) -> float | None:
        return amount / self.seconds if self.seconds > 0 else None
