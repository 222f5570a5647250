"""How the sequences of a request have gone, for those who observe a client's requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["finished", "stopped", "failed", "running"]
"""How a request ended: by itself, by the client, by an error; or not yet."""


@dataclass(slots=True)
class Outcome:
    """How one sequence of a request has gone so far, as its client saw it.

    Parameters
    ----------
    rid : str
        Name of the request on the server.
    index : int
        Place among the sequences of its request.
    status : str
        ``"finished"``, ``"stopped"``, ``"failed"`` or ``"running"``.
    started : float
        `time.perf_counter` when the request was sent.
    ended : float or None
        `time.perf_counter` at its end; None while it runs.
    arrivals : tuple of (float, int)
        Seconds since `started` of each event with new tokens, and their number; empty if not streamed.
    meta_info : mapping
        The server's last record of it.
    error : str
        Class and first line of the error that it failed with.
    """

    rid: str
    index: int
    status: Status
    started: float
    ended: float | None = None
    arrivals: tuple[tuple[float, int], ...] = ()
    meta_info: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


def status_of(finish_reason: Mapping[str, Any]) -> Status:
    """Return how a sequence ended by the server's finish reason.

    Examples
    --------
    >>> status_of({"type": "length"}), status_of({"type": "abort", "status_code": 500})
    ('finished', 'failed')
    >>> status_of({"type": "abort", "message": "Abort before prefill"})
    'stopped'
    """
    if finish_reason.get("type") != "abort":
        return "finished"
    return "failed" if finish_reason.get("status_code") else "stopped"


def error_line(error: BaseException) -> str:
    r"""Return the class and the first line of an error.

    Examples
    --------
    >>> error_line(ValueError("too long\nby far")), error_line(KeyboardInterrupt())
    ('ValueError: too long', 'KeyboardInterrupt')
    """
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
