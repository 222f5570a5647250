"""The span of time that pictures over time show."""

from __future__ import annotations

from nbruntime.profiling.profile_data import ProfileData


def span_of(data: ProfileData) -> tuple[float, float]:
    """Return the begin and end of a profile and all that it holds, as Unix times; never empty.

    Examples
    --------
    >>> span_of(ProfileData(started=5.0, ended=7.0))
    (5.0, 7.0)
    """
    starts = [request.sent for request in data.requests] + [sample.at for sample in data.samples[:1]]
    starts += [step.start for step in data.steps]
    ends = [request.ended for request in data.requests] + [sample.at for sample in data.samples[-1:]]
    ends += [step.end for step in data.steps]
    start = min([data.started, *starts]) if data.started else min(starts, default=0.0)
    end = max([start, data.ended or start, *ends])
    return start, end if end > start else start + 1.0
