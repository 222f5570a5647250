"""The records of a load test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from nbruntime.profiling.records import LoadSample, RequestRecord

Loop = Literal["open", "closed"]
"""Open: requests are sent on schedule. Closed: each of a number of users sends the next after an answer."""

CLIENT_LIMIT = "The client was the limit"
"""Begin of the note of a run whose client was slower than the server."""


@dataclass(frozen=True)
class BenchRun:
    """One run of a load test at one rate or concurrency.

    Parameters
    ----------
    label : str
        Name of the server in pictures.
    server, model : str
        URL of the server, and its model.
    loop : str
        ``"open"`` or ``"closed"``.
    rate : float or None
        Requests per second of an open loop; infinite for all at once.
    concurrency : int or None
        Users of a closed loop, or the most requests at once of an open one.
    started, ended : float
        Unix times of the first sending and of the last end, warm-up included.
    steady : tuple of (float, float)
        Unix times of the steady state; requests that were sent in it count.
    requests : list of RequestRecord
        All of them, warm-up included, in the order of sending.
    samples : list of LoadSample
        The server's load over time.
    interrupted : bool
        Whether it was stopped before its end.
    notes : list of str
        Sentences about what was cut, or what limits the result.
    settings : dict
        The arguments of the run, without secrets.
    """

    label: str
    server: str
    model: str
    loop: Loop
    rate: float | None
    concurrency: int | None
    started: float
    ended: float
    steady: tuple[float, float]
    requests: list[RequestRecord]
    samples: list[LoadSample] = field(default_factory=list)
    interrupted: bool = False
    notes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
