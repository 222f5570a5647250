"""The data of a profile, and the figures that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Self

from nbruntime.profiling.figures import Figures
from nbruntime.profiling.records import LoadSample, Phases, RequestRecord
from nbruntime.protocol.metrics import Histogram
from nbruntime.protocol.step_log import Step

if TYPE_CHECKING:
    from nbruntime.profiling.trace.trace import Trace

StepsFrom = Literal["", "step log", "trace"]
"""Where the steps come from; empty if there are none."""


@dataclass(repr=False)
class ProfileData:
    """What was noted of a stretch of work. Times are Unix times of the client's clock, in seconds.

    Parameters
    ----------
    server : str
        URL of the server.
    model : str
        Name of the model.
    started, ended : float
        Begin and end; `ended` is None while it runs.
    requests : list of RequestRecord
        In the order of sending.
    samples : list of LoadSample
        The server's load over time.
    steps : list of Step
        The server's forward passes, by the client's clock; empty if unknown.
    steps_from : str
        ``"step log"``, ``"trace"`` or empty.
    latencies : mapping of str to Histogram
        The server's histograms of this time, by `nbruntime.profiling.monitor.LATENCIES`, of all its clients.
    clock_offset : float
        Seconds that the server's clock is ahead of the client's.
    trace_files : list of str
        Trace files of the server's profiler, on the server's disk.
    trace : Trace or None
        The trace, once it was read.
    notes : list of str
        What was cut, and what is not known; a sentence each.
    error : str
        Class and first line of the exception that ended it.
    """

    server: str = ""
    model: str = ""
    started: float = 0.0
    ended: float | None = None
    requests: list[RequestRecord] = field(default_factory=list)
    samples: list[LoadSample] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    steps_from: StepsFrom = ""
    latencies: Mapping[str, Histogram] = field(default_factory=dict)
    clock_offset: float = 0.0
    trace_files: list[str] = field(default_factory=list)
    trace: Trace | None = field(default=None, compare=False)
    notes: list[str] = field(default_factory=list)
    error: str = ""

    def snapshot(self) -> Self:
        """Return a copy whose lists do not grow while it is read."""
        return replace(
            self,
            requests=list(self.requests),
            samples=list(self.samples),
            steps=list(self.steps),
            trace_files=list(self.trace_files),
            notes=list(self.notes),
        )

    @property
    def figures(self) -> Figures:
        """Counts, latencies and rates of the requests so far."""
        return Figures(list(self.requests))

    @property
    def duration(self) -> float:
        """Seconds from its begin to its end; to the last thing noted while it runs."""
        if self.ended is not None:
            return self.ended - self.started
        seen = self.snapshot()
        last = [each.ended for each in seen.requests] + [sample.at for sample in seen.samples]
        return max(max(last, default=self.started) - self.started, 0.0)

    def phases(self, request: RequestRecord) -> Phases:
        """Divide a request's time by the server's own times, moved to the client's clock."""
        times = request.server_times

        def at(name: str) -> float | None:
            value = times.get(name)
            if not value:
                return None
            return min(max(value - self.clock_offset, request.sent), request.ended)

        return Phases(
            request.sent,
            request.ended,
            at("request_received_ts"),
            at("forward_entry_time"),
            at("prefill_finished_time"),
        )
