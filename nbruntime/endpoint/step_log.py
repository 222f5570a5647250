"""Asks a server for its log of steps, in either client: blocking, and for a short time only."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from urllib.parse import urlencode

from nbruntime.endpoint.http import HttpRequest, HttpResponse, Operation
from nbruntime.endpoint.settings import Settings
from nbruntime.endpoint.time_limit import time_limit
from nbruntime.endpoint.transport import Transport
from nbruntime.generation.step_source import StepSource
from nbruntime.protocol.requests import GenerateRequest
from nbruntime.protocol.step_log import ROUTE, Step, StepLog, read_step_log

PATIENCE = 3.0
"""Seconds for the whole answer."""

_MOST_ANSWERS = 50
"""A server that sends more pieces than its log can have is not asked on."""


def read_steps(since: float | None = None, until: float | None = None) -> Operation[list[Step]]:
    """Read the steps between two times, by the server's clock; a `NotFoundError` if it keeps no log."""
    steps: list[Step] = []
    for _ in range(_MOST_ANSWERS):
        log = yield from read_steps_after(steps[-1].number if steps else None, since, until)
        steps += log.steps
        if not log.more or not log.steps:
            break
    return steps


def read_steps_after(
    after: int | None = None, since: float | None = None, until: float | None = None
) -> Operation[StepLog]:
    """Read one piece of the log."""
    given = {"after": after, "since": since, "until": until}
    query = urlencode({name: value for name, value in given.items() if value is not None})
    path = f"{ROUTE}?{query}" if query else ROUTE
    answer: HttpResponse = yield HttpRequest("GET", path, safe=True, limits=(PATIENCE, PATIENCE))
    return read_step_log(answer.content, where=answer.url)


def step_source(settings: Settings, request: GenerateRequest) -> StepSource:
    """Make what the answers of a request ask for the server's steps.

    It has a connection of its own, opened when it is asked: an answer that is kept keeps neither the client
    nor the server alive.
    """
    own = replace(settings, diagnose=None)

    def ask(since: float, until: float | None) -> list[Step]:
        with closing(Transport(own)) as transport, time_limit(PATIENCE, own):
            return transport.run(read_steps(since, until))

    return StepSource(ask, siblings=len(request.prompts) * request.samples - 1)
