"""`BenchResult`: what a load test found out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from nbruntime.display.cards import Card, CardMixin, text_table
from nbruntime.errors import ArgumentTypeError, ArgumentValueError
from nbruntime.generation.data_frame import data_frame
from nbruntime.profiling.bench.results.answer import answer, knee_in_words
from nbruntime.profiling.bench.results.goodput import DEFAULT, read_thresholds
from nbruntime.profiling.bench.results.result_card import result_card
from nbruntime.profiling.bench.results.result_plots import ResultPlots
from nbruntime.profiling.bench.results.run_figures import DEFINITIONS, RunFigures
from nbruntime.profiling.bench.results.saved_result import (
    REQUEST_COLUMNS,
    RUN_COLUMNS,
    VERSION,
    from_record,
    request_rows,
    run_rows,
    to_record,
)
from nbruntime.profiling.bench.results.sweep import client_limited, sweep_point
from nbruntime.profiling.bench.results.verdicts import Capacity, capacities, judge, load_in_words
from nbruntime.profiling.bench_run import CLIENT_LIMIT, BenchRun
from nbruntime.profiling.files import load_record, save_record
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.summary.summary import Summary
from nbruntime.profiling.sweep_point import SweepPoint, curves

if TYPE_CHECKING:
    import pandas

KIND = "load test"
"""The kind of its files."""


@dataclass(repr=False)
class BenchResult(ResultPlots, CardMixin):
    """The runs of a load test, what they measured, and the answer in words; a cell shows it as a card.

    Parameters
    ----------
    runs : list of BenchRun
        A run for each load and server.
    goodput : mapping of str to float
        Thresholds that a request has to meet: ``ttft``, ``tpot``, ``itl`` and ``e2e`` in seconds, at most;
        ``tokens_per_second`` of one request, at least. Without any, 0.5 s to the first token and 20 tokens/s.
    share : float
        Part of the requests that has to meet them all for a load to be held.

    Examples
    --------
    >>> from nbruntime.profiling.records import RequestRecord
    >>> requests = [
    ...     RequestRecord("", 10.0 + n, 10.5 + n, ((0.2, 1), (0.24, 1)), completion_tokens=2)
    ...     for n in range(20)
    ... ]
    >>> run = BenchRun("tiny", "", "tiny", "closed", None, 1, 10.0, 30.0, (10.0, 30.0), requests)
    >>> result = BenchResult([run], goodput={"ttft": 0.5})
    >>> print(result.summary())  # doctest: +ELLIPSIS
    Holds 1 user at once at TTFT < 500 ms (90 %). 100 % of 20 requests met them; medians: TTFT 200 ms, ...
    >>> result.figures[0].ttft.median
    0.2
    """

    runs: list[BenchRun]
    goodput: Mapping[str, float] = field(default_factory=dict)
    share: float = 0.9

    def __post_init__(self) -> None:
        self.goodput = read_thresholds(self.goodput)
        if not 0 < self.share <= 1:
            raise ArgumentValueError(f"A share is above 0 and at most 1, not {self.share}", where="share")

    @property
    def thresholds(self) -> Mapping[str, float]:
        """The thresholds that count: `goodput`, or the default ones."""
        return self.goodput or DEFAULT

    @cached_property
    def figures(self) -> list[RunFigures]:
        """The figures of each run, in the order of `runs`."""
        return [RunFigures(run, self.thresholds) for run in self.runs]

    @cached_property
    def capacities(self) -> list[Capacity]:
        """Up to which load each server held the thresholds."""
        return capacities(judge(each, self.share) for each in self.figures)

    def summary(self) -> Summary:
        """Say which load each server holds, why not more, and where the knee of a sweep is."""
        if not self.runs:
            return Summary(["No run was made."])
        sentences: list[str] = []
        bends = curves(point for point in self.points() if point.load < float("inf"))
        several = len(self.capacities) > 1
        for capacity in self.capacities:
            label = capacity.verdicts[0].run.label
            written = answer(capacity, self.share)
            curve = [point for point in bends.get(label, ()) if point.loop == capacity.verdicts[0].run.loop]
            if bend := knee_in_words(curve):
                written.append(bend)
            if several:
                written[0] = f"{label}: {written[0]}"
            sentences += written
        return Summary([*sentences, *self._remarks()])

    def against(self, goodput: Mapping[str, float], *, share: float | None = None) -> Self:
        """Judge the same runs by other thresholds; nothing is measured again.

        Parameters
        ----------
        goodput : mapping of str to float
            The thresholds.
        share : float, optional
            Part of the requests that has to meet them all; that of this result by default.
        """
        return type(self)(self.runs, goodput, self.share if share is None else share)

    def points(self, quantile: float = 0.5) -> list[SweepPoint]:
        """Return the throughput-latency curve, a point for each run that has one.

        Parameters
        ----------
        quantile : float
            The quantile of its latencies, from 0 to 1.
        """
        points = (sweep_point(each, quantile) for each in self.figures)
        return [point for point in points if point is not None]

    @property
    def notes(self) -> list[str]:
        """What was cut, and what limits the runs; a sentence each."""
        return list(dict.fromkeys(note for run in self.runs for note in run.notes))

    def definitions(self) -> str:
        """Return what the figures mean, as a table of text."""
        return text_table(DEFINITIONS)

    def profile_data(self, run: int | None = None, *, steady: bool = False) -> ProfileData:
        """Return a run as the data of a profile, for the pictures of profiles.

        Parameters
        ----------
        run : int, optional
            Place among `runs`; the largest load that held by default, or the first run.
        steady : bool
            Whether to leave out the requests that were not sent in its steady state.
        """
        chosen = self._chosen(run)
        requests = RunFigures(chosen).requests if steady else chosen.requests
        return ProfileData(
            server=chosen.server,
            model=chosen.model,
            started=chosen.started,
            ended=chosen.ended,
            requests=requests,
            samples=chosen.samples,
            notes=chosen.notes,
        )

    def to_frame(self) -> pandas.DataFrame:
        """Return the requests of all runs as a pandas table, with the columns `REQUEST_COLUMNS`.

        Raises
        ------
        MissingPackageError
            If pandas is not installed.
        """
        rows = request_rows(self.figures)
        return data_frame(rows, REQUEST_COLUMNS, instead=".runs, or to_dict()")

    def runs_frame(self) -> pandas.DataFrame:
        """Return the figures of the runs as a pandas table, with the columns `RUN_COLUMNS`.

        Raises
        ------
        MissingPackageError
            If pandas is not installed.
        """
        return data_frame(run_rows(self.figures), RUN_COLUMNS, instead=".figures")

    def to_dict(self) -> dict[str, Any]:
        """Return a dict that JSON takes and `from_dict` reads."""
        return to_record(self.runs, self.goodput, self.share)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read a dict of `to_dict`.

        Raises
        ------
        ArgumentTypeError
            If it is not the record of a load test.
        """
        return cls(**from_record(record))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the result with all its requests as JSON, compressed if the name ends in ``.gz``.

        Returns the path.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        return save_record(path, self.to_dict(), kind=KIND, version=VERSION)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file of `save`.

        Raises
        ------
        ArgumentError
            If it is no such file, is damaged, or was saved by a newer release.
        OSError
            If the file cannot be read.
        """
        record, _ = load_record(path, kind=KIND, version=VERSION)
        return cls.from_dict(record)

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[BenchRun]:
        return iter(self.runs)

    def __getitem__(self, place: int) -> BenchRun:
        return self.runs[place]

    def __add__(self, other: BenchResult) -> BenchResult:
        """Put two results into one, such as those of two servers; the thresholds are those of the first."""
        if not isinstance(other, BenchResult):
            return NotImplemented
        return BenchResult([*self.runs, *other.runs], self.goodput, self.share)

    def __repr__(self) -> str:
        return self._card().text()

    def _card(self) -> Card:
        return result_card(self.figures, self.summary().sentences, self.notes)

    def _remarks(self) -> list[str]:
        """Write what the reader of the answer has to know."""
        remarks = []
        if limited := [load_in_words(run) for run in self.runs if client_limited(run)]:
            remarks.append(f"{CLIENT_LIMIT} at {', '.join(limited)}: the server may be faster.")
        if any(run.interrupted for run in self.runs):
            remarks.append("The test was stopped early: what was measured until then counts.")
        if not self.goodput:
            remarks.append("These are the default thresholds: .against({...}) judges by others.")
        return remarks

    def _chosen(self, run: int | None) -> BenchRun:
        if not self.runs:
            raise ArgumentValueError("The load test has no run", hint="It was stopped before its first one.")
        if run is None:
            best = next((each.best for each in self.capacities if each.best is not None), None)
            return self.runs[0] if best is None else best.run
        if not isinstance(run, int) or isinstance(run, bool):
            raise ArgumentTypeError(f"run is the place of a run, not {run!r}", where="run")
        if not -len(self.runs) <= run < len(self.runs):
            raise ArgumentValueError(f"There are {len(self.runs)} runs, and no run {run}", where="run")
        return self.runs[run]
