"""Poll a server for its load and latencies, and keep the recent values."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from nbruntime.errors import NbruntimeError, NotFoundError, ProtocolError
from nbruntime.protocol.load import Load, read_loads
from nbruntime.protocol.metrics import Histogram, gauges, histograms
from nbruntime.secrets import Secret, without_secrets

LATENCIES = {
    "time_to_first_token_seconds": "TTFT",
    "inter_token_latency_seconds": "ITL",
    "e2e_request_latency_seconds": "end to end",
}
"""Histograms of SGLang's metrics, and their labels."""

OLDER_NAMES = {"inter_token_latency_seconds": "time_per_output_token_seconds"}
"""Names of histograms in older servers."""

METRICS_EVERY = 5
"""The metrics are read in every fifth poll: SGLang's are about 80 kB."""

RECENT_SECONDS = 60.0
"""Seconds of the past whose latencies are reported if requests ended in them."""

_GAUGES = {
    "num_running_reqs": "num_running_reqs",
    "num_queue_reqs": "num_waiting_reqs",
    "num_used_tokens": "num_used_tokens",
    "max_total_num_tokens": "max_total_num_tokens",
    "gen_throughput": "gen_throughput",
}
"""Gauges that replace the load of a server without a load route, and the fields of `Load`."""


def whole_load(ranks: Sequence[Load]) -> Load:
    """Combine the loads of a data-parallel server's ranks: sums of counts, and shares of the whole.

    Examples
    --------
    >>> rank = Load(num_running_reqs=1, num_used_tokens=5, max_total_num_tokens=10)
    >>> load = whole_load([rank, rank])
    >>> load.num_running_reqs, load.token_usage
    (2, 0.5)
    """

    def known(name: str) -> list[Any]:
        return [value for rank in ranks if _is_number(value := getattr(rank, name))]

    def total(name: str) -> Any:
        values = known(name)
        return sum(values) if values else None

    def mean(name: str) -> float | None:
        values = known(name)
        return sum(values) / len(values) if values else None

    used, size = total("num_used_tokens"), total("max_total_num_tokens")
    return Load(
        num_running_reqs=total("num_running_reqs"),
        num_waiting_reqs=total("num_waiting_reqs"),
        num_used_tokens=used,
        num_total_tokens=total("num_total_tokens"),
        max_total_num_tokens=size,
        max_running_requests=total("max_running_requests"),
        token_usage=used / size if used is not None and size else mean("token_usage"),
        gen_throughput=total("gen_throughput"),
        cache_hit_rate=mean("cache_hit_rate"),
    )


class ServerMonitor:
    """Polls a server and keeps the recent answers.

    Parameters
    ----------
    ask : callable
        Takes the path of a route and returns the body, or raises a `NbruntimeError`.
    interval : float
        Seconds between two polls; polling itself is up to the caller.
    steps : int
        Number of polls kept.
    metrics_every : int or None
        Number of polls after which the metrics are read again; None for only the first time.
    """

    def __init__(
        self,
        ask: Callable[[str], str],
        *,
        interval: float = 1.0,
        steps: int = 120,
        metrics_every: int | None = METRICS_EVERY,
    ) -> None:
        self.interval = interval
        self.steps = steps
        self.model_info: dict[str, Any] = {}  # read when the server (re)appears
        self.server_info: dict[str, Any] = {}  # the same, with secrets masked
        self.answered_at: float | None = None  # time of the last answer, by `time.time`
        self.gone_since: float | None = None  # time of the first failed poll; None while the server answers
        self.error: NbruntimeError | None = None  # of the last poll
        self.metrics: bool | None = None  # whether the server has metrics; None before the first poll
        self._ask = ask
        self._metrics_every = metrics_every
        self._lock = threading.Lock()
        self._known = False
        self._has_loads = True
        self._polls = 0
        self._history: deque[tuple[float, Load | None]] = deque(maxlen=steps)
        self._latencies: deque[tuple[float, dict[str, Histogram]]] = deque(
            maxlen=max(2, int(RECENT_SECONDS / (METRICS_EVERY * interval)) + 1)
        )

    @property
    def asked(self) -> bool:
        """Whether there has been a poll."""
        return bool(self._history)

    def poll(self) -> None:
        """Poll once; an error is kept in `error` and not raised."""
        with self._lock:
            try:
                if not self._known:
                    self._read_info()
                every = self._metrics_every
                if self._polls == 0 or (every is not None and self._polls % every == 0):
                    self._read_metrics()
                load = self._read_load()
            except NbruntimeError as error:
                self._history.append((time.monotonic(), None))
                self.error, self._known, self._polls = error, False, 0
                self.gone_since = self.gone_since or time.time()
                return
            self._polls += 1
            self._history.append((time.monotonic(), load))
            self.answered_at, self.gone_since, self.error = time.time(), None, None

    def histograms(self, *, anew: bool = False) -> dict[str, Histogram]:
        """Return the server's histograms by the names of `LATENCIES`; empty without metrics.

        Parameters
        ----------
        anew : bool
            Whether to read them now; NbruntimeError if the server does not answer.
        """
        with self._lock:
            if anew:
                self._read_metrics()
            return self._latencies[-1][1] if self._latencies else {}

    def end(self) -> None:
        """Record that the server has ended, as a step without a value."""
        self._history.append((time.monotonic(), None))

    def load(self) -> Load | None:
        """Return the load at the last poll; None without an answer."""
        return self._history[-1][1] if self._history else None

    def points(self, name: str) -> list[tuple[int, float | None]]:
        """Return a field of `Load` over time: steps before the last poll, and the value (None if unknown)."""
        history = list(self._history)
        if not history:
            return []
        now = history[-1][0]
        return [
            (round((now - at) / self.interval), None if load is None else getattr(load, name))
            for at, load in history
        ]

    def latencies(self) -> tuple[str, dict[str, Histogram]]:
        """Return the period in words and the latencies by the names of `LATENCIES`; empty without metrics.

        The period is the last minute, or the server's life if no request ended in that minute.
        """
        snapshots = list(self._latencies)
        if not snapshots:
            return "", {}
        last = snapshots[-1][1]
        first_at, first = snapshots[0]
        recent = {name: last[name] - first[name] for name in last if name in first}
        if len(snapshots) > 1 and any(each.total for each in recent.values()):
            return f"the last {max(1, round(snapshots[-1][0] - first_at))} s", recent
        return "the server's life", last

    def _read_info(self) -> None:
        self.model_info = self._object("/model_info", "/get_model_info")
        self.server_info = without_secrets(self._object("/server_info", "/get_server_info"), Secret(None))
        self._has_loads, self.metrics = True, None
        self._latencies.clear()
        self._known = True

    def _object(self, *paths: str) -> dict[str, Any]:
        body = self._json(paths)
        return body if isinstance(body, dict) else {}

    def _json(self, paths: tuple[str, ...]) -> Any:
        """Read the first of several paths that the server has."""
        for path in paths[:-1]:
            try:
                return _parsed(self._ask(path), path)
            except NotFoundError:
                continue
        return _parsed(self._ask(paths[-1]), paths[-1])

    def _read_load(self) -> Load:
        if self._has_loads:
            try:
                return whole_load(read_loads(self._json(("/v1/loads", "/get_load", "/workers"))))
            except (NotFoundError, ProtocolError):
                self._has_loads = False
        text = self._ask("/metrics" if self.metrics else "/model_info")
        found = gauges(text, list(_GAUGES)) if self.metrics else {}
        return whole_load([Load(**{_GAUGES[name]: value for name, value in found.items()})])  # type: ignore[arg-type]

    def _read_metrics(self) -> None:
        if self.metrics is False:
            return
        try:
            text = self._ask("/metrics")
        except NotFoundError:
            self.metrics = False
            return
        self.metrics = True
        found = histograms(text, [*LATENCIES, *OLDER_NAMES.values()])
        for name, older in OLDER_NAMES.items():
            if older in found:
                found.setdefault(name, found[older])
        self._latencies.append((time.monotonic(), {name: found[name] for name in LATENCIES if name in found}))


def _parsed(body: str, path: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ProtocolError("The answer is not JSON", where=path) from None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
