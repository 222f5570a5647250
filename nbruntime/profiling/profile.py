"""`Profile`: what a stretch of work cost."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from nbruntime.display.cards import Card, CardMixin
from nbruntime.errors import TraceError
from nbruntime.generation.data_frame import data_frame
from nbruntime.generation.explanation import Explanation
from nbruntime.profiling.card import phase_times, profile_card
from nbruntime.profiling.files import load_record, save_record
from nbruntime.profiling.one_request import explain_request
from nbruntime.profiling.profile_plots import PlotMethods
from nbruntime.profiling.records import RequestRecord
from nbruntime.profiling.report import write_report
from nbruntime.profiling.saved_profile import VERSION, from_record, to_record
from nbruntime.profiling.summary.summary import Summary, summary
from nbruntime.profiling.timeline.timeline import write_timeline
from nbruntime.profiling.trace.reader import PathName, read_trace
from nbruntime.profiling.trace.trace import Trace
from nbruntime.profiling.trace_clock import add_trace

if TYPE_CHECKING:
    import pandas

    from nbruntime.profiling.plots.figure import Figure

KIND = "profile"
"""The kind of its files."""

FRAME_COLUMNS = (
    "rid",
    "index",
    "route",
    "status",
    "finish",
    "sent_s",
    "e2e_s",
    "ttft_s",
    "tpot_s",
    "queue_s",
    "prefill_s",
    "decode_s",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "events",
    "retractions",
    "error",
)
"""Columns of `Profile.to_frame`; times in seconds, ``sent_s`` since the begin of the profile."""


class Profile(CardMixin, PlotMethods):
    """A record of the requests, the load and the steps of a stretch of work; a cell shows it as a card.

    Examples
    --------
    >>> from nbruntime.profiling.records import RequestRecord
    >>> request = RequestRecord("a", 100.5, 102.5, ((0.5, 1), (1.0, 1)), prompt_tokens=8, completion_tokens=2)
    >>> profile = Profile(model="tiny", started=100.0, ended=103.0, requests=[request])
    >>> profile.figures.ttft.median, profile.figures.token_rate
    (0.5, 1.0)
    >>> Profile.from_dict(profile.to_dict()) == profile
    True
    """

    def summary(self) -> Summary:
        """Say in two to five sentences where the time went, and what the bottleneck was."""
        return summary(self)

    def explain(self, request: RequestRecord | str) -> Explanation:
        """Tell why a request took so long, as a bar and a sentence, by what the profile has noted.

        Parameters
        ----------
        request : RequestRecord or str
            One of `requests`, or its rid.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            If it is no request of the profile, or its rid names several.

        Examples
        --------
        >>> slowest = max(profile.requests, key=lambda each: each.e2e)  # doctest: +SKIP
        >>> profile.explain(slowest)  # doctest: +SKIP
        """
        return explain_request(self, request)

    def to_frame(self) -> pandas.DataFrame:
        """Return the requests as a pandas table: a row for each sequence, the columns `FRAME_COLUMNS`.

        Times are in seconds; what is not known is missing.

        Raises
        ------
        MissingPackageError
            If pandas is not installed.
        """
        rows = [
            (
                each.rid,
                each.index,
                each.route,
                each.status,
                each.finish,
                each.sent - self.started,
                each.e2e,
                each.ttft,
                each.tpot,
                *phase_times(self, each),
                each.prompt_tokens,
                each.cached_tokens,
                each.completion_tokens,
                len(each.arrivals),
                each.retractions,
                each.error,
            )
            for each in self.requests
        ]
        return data_frame(rows, FRAME_COLUMNS, instead=".requests, or to_dict()")

    def to_dict(self) -> dict[str, Any]:
        """Return a dict that JSON takes and `from_dict` reads; the trace is left out."""
        return to_record(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read a dict of `to_dict`.

        Raises
        ------
        ArgumentTypeError
            If it is not the record of a profile.
        """
        return cls(**from_record(record))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the profile as JSON, compressed if the name ends in ``.gz``, and return the path.

        The trace is not saved, only the names of its files.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        return save_record(path, to_record(self), kind=KIND, version=VERSION)

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

    def load_trace(self, path: PathName | Iterable[PathName] | None = None) -> Trace:
        """Read traces of the server's profiler into `trace`; their steps are taken if none were logged.

        Parameters
        ----------
        path : path or iterable of paths, optional
            Files, or a folder, of which the newest recording is read. By default `trace_files`.

        Raises
        ------
        TraceError
            If there is no trace, or it cannot be read.
        """
        if path is None and not self.trace_files:
            raise TraceError(
                "The profile has no trace", hint="Record it with trace=True, or give the path of a trace."
            )
        if path is None and not self._has_readable_trace():
            raise TraceError(
                "The trace files cannot be read here",
                where=self.trace_files[0],
                hint="They lie on the server's disk. Copy them, and give their path to load_trace().",
            )
        trace = read_trace(self.trace_files if path is None else path)
        add_trace(self, trace)
        return trace

    def timeline(self, path: str | os.PathLike[str]) -> Path:
        """Write requests, server steps and a trace on one clock, for https://ui.perfetto.dev.

        It is one Chrome trace, compressed if the name ends in ``.gz``; its path is returned. Trace files that
        can be read here are read if they were not yet.

        Raises
        ------
        OSError
            If the file cannot be written.
        TraceError
            If a trace file is there, but cannot be read.
        """
        self._read_own_trace()
        return write_timeline(path, self)

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write one self-contained page of HTML with summary, figures, plots and tables; return the path.

        The page has no script, and follows the light or dark theme of the reader's system.

        Raises
        ------
        OSError
            If the file cannot be written.
        TraceError
            If a trace file is there, but cannot be read.
        """
        self._read_own_trace()
        return write_report(path, self)

    def _plot_trace(self, name: str, **options: Any) -> Figure:
        self._read_own_trace()
        return super()._plot_trace(name, **options)

    def _read_own_trace(self) -> None:
        if self.trace is None and self._has_readable_trace():
            self.load_trace()

    def _has_readable_trace(self) -> bool:
        return bool(self.trace_files) and all(os.access(path, os.R_OK) for path in self.trace_files)

    def __repr__(self) -> str:
        return self._card().text()

    def _card(self) -> Card:
        return profile_card(self)
