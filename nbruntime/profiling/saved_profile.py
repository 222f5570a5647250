"""Profiles as dicts that JSON takes, without the trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from nbruntime.errors import ArgumentTypeError
from nbruntime.profiling.files import from_plain, plain
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.records import LoadSample, RequestRecord
from nbruntime.protocol.metrics import Histogram
from nbruntime.protocol.step_log import Step

VERSION = 1
"""Version of the form; raised when older releases could not read it."""

_TYPES: dict[str, Any] = {
    "server": str,
    "model": str,
    "started": float,
    "ended": float | None,
    "requests": list[RequestRecord],
    "samples": list[LoadSample],
    "steps": list[Step],
    "steps_from": str,
    "latencies": dict[str, list[tuple[float | None, float]]],
    "clock_offset": float,
    "trace_files": list[str],
    "notes": list[str],
    "error": str,
}
"""Types of the fields in a record; the rest of `ProfileData` is not saved."""

NOT_SAVED = ("trace",)
"""Read again from `trace_files`."""


def to_record(data: ProfileData) -> dict[str, Any]:
    """Return a profile as a dict that JSON takes."""
    # The servers' own JSON in a load may hold anything, and is not needed.
    samples = [replace(sample, load=replace(sample.load, raw={})) for sample in list(data.samples)]
    histograms = {name: _bounds(histogram) for name, histogram in data.latencies.items()}
    special = {"samples": samples, "latencies": histograms}
    return {name: plain(special.get(name, getattr(data, name))) for name in _TYPES}


def from_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a profile; unknown ones are left out.

    Raises
    ------
    ArgumentTypeError
        If it is not the record of a profile.
    """
    if not isinstance(record, Mapping):
        raise ArgumentTypeError(
            f"Not the record of a profile: a {type(record).__name__}", hint="Pass the result of to_dict()."
        )
    known = {item.name for item in fields(ProfileData)} & _TYPES.keys() & record.keys()
    values: dict[str, Any] = {
        name: from_plain(record[name], _TYPES[name], what=f"profile, {name}") for name in known
    }
    if "latencies" in values:
        values["latencies"] = {
            name: Histogram({float("inf") if bound is None else bound: count for bound, count in bounds})
            for name, bounds in values["latencies"].items()
        }
    return values


def _bounds(histogram: Histogram) -> list[tuple[float | None, float]]:
    # JSON has no infinity, the last bound of every histogram.
    return [(None if bound == float("inf") else bound, count) for bound, count in histogram.counts.items()]
