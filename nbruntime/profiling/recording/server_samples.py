"""What a recorder asks the server again and again: its load, its steps, its histograms."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from nbruntime.display.html import shortened
from nbruntime.display.numbers import time_of_day
from nbruntime.endpoint.cards import model_name
from nbruntime.errors import NbruntimeError, NotFoundError, ProtocolError
from nbruntime.profiling.monitor import ServerMonitor
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.recording.clock import ClockOffset, estimate_offset
from nbruntime.profiling.records import LoadSample
from nbruntime.protocol.load import Load
from nbruntime.protocol.metrics import Histogram
from nbruntime.protocol.step_log import ROUTE, StepLog, read_step_log

MOST_STEPS = 200_000
"""Steps of the server that a profile keeps."""

NO_STEPS_AFTER = 2**53
"""A step's number that no server reaches: only its clock is asked for."""


@dataclass(slots=True)
class _Marks:
    """How far the server has been read."""

    step: int = -1  # number of the last step that was read
    histograms: dict[str, Histogram] = field(default_factory=dict)  # at the begin
    gone: bool = False  # whether it was noted that the server does not answer


class ServerSamples:
    """Fills a profile with what its server tells.

    Parameters
    ----------
    profile : ProfileData
        The profile to fill.
    ask : callable
        Takes the path of a route and returns the body, or raises a `NbruntimeError`.
    interval : float
        Seconds between two samples; it doubles whenever there are too many.
    most : int
        Number of samples kept.
    local : bool
        Whether the server is on this machine.
    """

    def __init__(
        self, profile: ProfileData, ask: Callable[[str], str], *, interval: float, most: int, local: bool
    ) -> None:
        self.interval = interval
        self.clock = ClockOffset()
        self._profile = profile
        self._ask = ask
        self._most = most
        self._local = local
        self._marks = _Marks()
        self._has_steps = True
        self._full = False
        self._monitor = ServerMonitor(ask, interval=interval, steps=2, metrics_every=None)

    @property
    def server_info(self) -> dict[str, Any]:
        """The server's arguments, as they were read with the first sample."""
        return self._monitor.server_info

    @property
    def answered(self) -> bool:
        """True if the server answered when it was last asked for its load."""
        return self._monitor.error is None

    def begin(self) -> None:
        """Compare the clocks, take the first sample, and let the profile's time begin."""
        profile = self._profile
        try:
            self.clock = estimate_offset(self._server_time, local=self._local)
        except (NbruntimeError, ValueError, KeyError, TypeError):
            if not self._local:
                profile.notes.append(
                    "The server does not tell its time: its own times are taken for the client's."
                )
        profile.clock_offset = self.clock.seconds
        load = self._load()
        self._marks.histograms = self._monitor.histograms()
        profile.started = time.time()
        if load is not None:
            profile.samples.append(LoadSample(profile.started, load))

    def _server_time(self) -> float:
        if self._has_steps:
            try:
                return self._read_steps(f"after={NO_STEPS_AFTER}").server_time
            except (NotFoundError, ProtocolError):  # SGLang's server has no such route
                self._has_steps = False
        return datetime.fromisoformat(json.loads(self._ask("/v1/loads"))["timestamp"]).timestamp()

    def sample(self) -> None:
        """Ask for the load, and for the steps since the last time."""
        load = self._load()
        if load is not None:
            self._profile.samples.append(LoadSample(time.time(), load))
            if len(self._profile.samples) >= self._most:
                self._thin_out()
            self._add_steps()

    def _load(self) -> Load | None:
        monitor, profile = self._monitor, self._profile
        monitor.poll()
        if monitor.error is not None:
            self._note_gone(monitor.error)
            return None
        profile.model = profile.model or model_name(monitor.model_info)
        return monitor.load()

    def end(self) -> None:
        """Take the last sample, and the histograms of the profile's time."""
        self.sample()
        steps, ended = self._profile.steps, self._profile.ended
        while steps and ended is not None and steps[-1].start > ended:
            steps.pop()
        before = self._marks.histograms
        if before and self._monitor.error is None:
            try:
                after = self._monitor.histograms(anew=True)
            except NbruntimeError as error:
                self._note_gone(error)
            else:
                self._profile.latencies = {
                    name: after[name] - before[name] for name in after if name in before
                }

    def _note_gone(self, error: NbruntimeError) -> None:
        if not self._marks.gone:
            self._marks.gone = True
            said = shortened(error.message[:1].lower() + error.message[1:], 200)
            self._profile.notes.append(
                f"The server's load could not be read at {time_of_day(time.time())}: {said}."
            )

    def _thin_out(self) -> None:
        """Keep every second sample, and take half as many from now on."""
        del self._profile.samples[1::2]
        self.interval *= 2
        note = "Samples are {} s apart, to keep at most {:,} of them; max_samples=... keeps more."
        notes = self._profile.notes
        notes[:] = [each for each in notes if not each.startswith("Samples are ")]
        notes.append(note.format(f"{self.interval:g}", self._most))

    def _read_steps(self, query: str) -> StepLog:
        return read_step_log(self._ask(f"{ROUTE}?{query}"), where=ROUTE)

    def _add_steps(self) -> None:
        """Add the steps since the last time, by the client's clock."""
        while self._has_steps and not self._full:
            marks, profile = self._marks, self._profile
            first = marks.step < 0
            since = profile.started + self.clock.seconds
            try:
                log = self._read_steps(f"since={since:.6f}" if first else f"after={marks.step}")
            except (NotFoundError, ProtocolError):
                self._has_steps = False
                return
            except NbruntimeError as error:
                self._note_gone(error)
                return
            if not first and log.oldest > marks.step + 1:
                self._note_once(
                    "The server's step log has lost steps between two samples; shorten interval=."
                )
            for step in log.steps:
                profile.steps.append(replace(step, start=step.start - self.clock.seconds))
                marks.step = step.number
            if log.steps:
                profile.steps_from = "step log"
            if len(profile.steps) >= MOST_STEPS:
                self._full = True
                self._note_once(f"Only the server's first {len(profile.steps):,} steps are kept.")
            if not (log.more and log.steps):
                return

    def _note_once(self, note: str) -> None:
        if note not in self._profile.notes:
            self._profile.notes.append(note)
