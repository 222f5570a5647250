"""What the client process of a load test is told, and what it answers; one JSON value a line."""

from __future__ import annotations

from typing import Any

import msgspec

from nbruntime.profiling.bench_run import Loop
from nbruntime.profiling.records import RequestRecord

STOP = b"stop\n"
"""Tells the client process to stop its requests, report them and end."""

OWN_TOKENS = -1
"""Key of a block of tokens that no other request has."""


class PlannedRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request before it is sent.

    Parameters
    ----------
    output_tokens : int or None
        Tokens to generate; None leaves it to the sampling parameters.
    blocks : tuple of (int, int)
        The prompt as blocks of random tokens: key and length of each. Blocks of one key begin alike.
    prompt : int or None
        Number of the caller's prompt, instead.
    at : float
        Seconds from the start at which an open loop sends it.
    after : int or None
        Number of the request whose end it waits for, instead.
    wait : float
        Seconds between that end and this request.
    """

    output_tokens: int | None = None
    blocks: tuple[tuple[int, int], ...] = ()
    prompt: int | None = None
    at: float = 0.0
    after: int | None = None
    wait: float = 0.0


class ClientPlan(msgspec.Struct, frozen=True):
    """All that the client process needs; travels through a pipe, since it holds the server's key.

    Parameters
    ----------
    base_url, api_key, verify, connect_timeout, read_timeout
        As in `RuntimeEndpoint`.
    loop : str
        ``"open"`` or ``"closed"``.
    concurrency : int or None
        Users of a closed loop; most requests at once of an open one.
    think_time : float
        Seconds that a user waits between an answer and the next request.
    requests : list of PlannedRequest
        A closed loop begins again after the last of them, with new tokens.
    count : int or None
        Requests to send, warm-up included; None for no limit.
    warmup : int
        Number of requests that come before the measured ones.
    seconds : float or None
        Seconds after the warm-up in which a closed loop sends requests.
    timeout : float or None
        Seconds that one request may take.
    prompts : list of str or list of int
        The caller's prompts.
    vocabulary : list of int
        Tokens that random prompts are made of.
    seed : list of int
        Seed of the random tokens.
    body : dict
        Fields of every request, with its sampling parameters.
    """

    base_url: str
    api_key: str | None
    verify: str | bool | None
    connect_timeout: float | None
    read_timeout: float | None
    loop: Loop
    concurrency: int | None
    think_time: float
    requests: list[PlannedRequest]
    count: int | None
    warmup: int
    seconds: float | None
    timeout: float | None
    prompts: list[str | list[int]]
    vocabulary: list[int]
    seed: list[int]
    body: dict[str, Any]

    def __repr__(self) -> str:
        return f"ClientPlan({self.base_url!r}, {self.loop!r})"  # without the key


class Began(msgspec.Struct, frozen=True, tag=True):
    """The first request is sent now; `at` is the Unix time."""

    at: float


class Figures(msgspec.Struct, frozen=True, tag=True):
    """Counts so far, for those who watch.

    `ttft` is the median of recent requests in seconds, `tokens` the number of tokens received.
    """

    sent: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    tokens: int = 0
    ttft: float | None = None


class Measured(msgspec.Struct, frozen=True, tag=True):
    """A request that has ended."""

    record: RequestRecord
    number: int
    """Place in the plan's order; those below `ClientPlan.warmup` are the warm-up."""


class ClientEnded(msgspec.Struct, frozen=True, tag=True):
    """How the client itself did.

    Parameters
    ----------
    lag : float
        90th percentile of the seconds by which the event loop was late.
    processor_share : float
        Part of one processor that it used.
    waited : int
        Requests that waited for a place among those that may run at once.
    unreachable : str
        Error of the last request if the run ended because the server did not answer any more.
    """

    lag: float
    processor_share: float
    waited: int = 0
    unreachable: str = ""


Report = Began | Figures | Measured | ClientEnded
"""One line of the client process."""
