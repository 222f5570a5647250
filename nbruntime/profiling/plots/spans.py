"""The span of time that plots over time show."""

from __future__ import annotations

from nbruntime.profiling.profile_data import ProfileData


def span_of(data: ProfileData) -> tuple[float, float]:
    """Return the begin and the end of the profile in Unix time, as far as it has gone; never empty.

    Examples
    --------
    >>> span_of(ProfileData(started=5.0, ended=7.0))
    (5.0, 7.0)
    """
    starts = [each.sent for each in data.requests] + [each.start for each in data.steps]
    ends = [each.ended for each in data.requests] + [each.end for each in data.steps]
    noted = [sample.at for sample in data.samples] + [at for at in (data.started, data.ended) if at]
    start = min([*starts, *noted], default=0.0)
    end = max([*ends, *noted], default=start)
    return start, end if end > start else start + 1.0
