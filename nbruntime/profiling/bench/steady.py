"""The steady state of a run: without its beginning and its end."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from nbruntime.profiling.bench_run import Loop
from nbruntime.profiling.records import RequestRecord

PEAK_SHARE = 0.9
"""Part of the most requests at once above which a closed loop is in its steady state."""


def steady_window(
    requests: Sequence[RequestRecord], loop: Loop, *, warmup: int, started: float, ended: float
) -> tuple[float, float]:
    """Find the Unix times between which a run was in its steady state.

    It begins when the first request after the warm-up is sent. In a closed loop it lasts until fewer than
    90 % of the most requests at once run, for good; in an open one until the last request is sent. SGLang's
    ``bench_serving`` takes the longest stretch above such a share, which ends at every short gap between an
    answer and the next request.

    Parameters
    ----------
    requests : sequence of RequestRecord
        All requests in the order of sending; those of the warm-up are the first.
    loop : str
        ``"open"`` or ``"closed"``.
    warmup : int
        Number of requests of the warm-up.
    started, ended : float
        Unix times of the run.
    """
    measured = requests[warmup:]
    if not measured:
        return ended, ended
    begin = measured[0].sent if warmup else started
    end = measured[-1].sent if loop == "open" else _last_full(requests)
    # Where most requests end after it, there was hardly a middle between beginning and end: all of it counts.
    inside = sum(begin <= request.sent and request.ended <= end for request in measured)
    return (begin, end) if 2 * inside >= len(measured) and end > begin else (begin, ended)


def _last_full(requests: Sequence[RequestRecord]) -> float:
    """Return the last time at which nearly the most requests at once were running."""
    changes = sorted([(each.sent, 1) for each in requests] + [(each.ended, -1) for each in requests])
    running = list(accumulate(change for _, change in changes))
    enough = PEAK_SHARE * max(running)
    # The requests that ran before a change ran until it.
    return max(at for (at, _), before in zip(changes, [0, *running], strict=False) if before >= enough)
