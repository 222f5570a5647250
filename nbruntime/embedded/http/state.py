"""What the handlers of a running server share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import web

from nbruntime.embedded.arguments import ServerArguments
from nbruntime.embedded.engine.engine import SHUTTING_DOWN, Engine
from nbruntime.embedded.http.metrics import Metrics
from nbruntime.embedded.http.replies import http_error
from nbruntime.embedded.runner.batch import ModelFacts
from nbruntime.embedded.sampling.grammar import GrammarCompiler
from nbruntime.embedded.text.tokenizer import Tokenizer

Result = TypeVar("Result")

_WORKERS = 2
"""Large bodies and texts that are worked on at once: each takes a hundred times its size for a while."""


@dataclass(slots=True)
class Service:
    """A loaded model that can answer.

    Parameters
    ----------
    engine : Engine
        Runs requests.
    tokenizer : Tokenizer
    grammars : GrammarCompiler
    facts : ModelFacts
    model_path, tokenizer_path, served_name : str
        As the server tells them.
    context_length : int
        Tokens that prompt and answer may have together.
    most_sequences : int
        Answers that one request may ask for: more would not fit the queue.
    """

    engine: Engine
    tokenizer: Tokenizer
    grammars: GrammarCompiler
    facts: ModelFacts
    model_path: str
    tokenizer_path: str
    served_name: str
    context_length: int
    most_sequences: int


@dataclass(slots=True)
class ServerState:
    """A server from its start to its end.

    Parameters
    ----------
    arguments : ServerArguments
    metrics : Metrics
    phase : str
        What it is doing: ``starting``, ``downloading``, …, ``ready``.
    active : dict of str to bool
        Ids of the requests that have not ended, those included that are still being read; True where an abort
        has come.
    """

    arguments: ServerArguments
    metrics: Metrics
    phase: str = "starting"
    active: dict[str, bool] = field(default_factory=dict)
    started: float = field(default_factory=time.time)
    startup_seconds: dict[str, float] = field(default_factory=dict)
    stopping: bool = False
    _service: Service | None = None
    _workers: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_WORKERS, thread_name_prefix="worker")
    )

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return self._service is not None and not self.stopping and self._service.engine.alive

    @property
    def service(self) -> Service:
        """The loaded model.

        Raises
        ------
        ReplyError
            503 while it is being loaded, and when the server stops.
        """
        if self._service is None:
            raise http_error(
                503, f"The server is starting ({self.phase}); try again when /health answers 200."
            )
        if not self.ready:
            raise http_error(503, SHUTTING_DOWN)
        return self._service

    def open(self, service: Service) -> None:
        """Begin to answer requests."""
        self._service = service
        self.phase = "ready"

    def note_abort(self, prefix: str | None) -> None:
        """Note for the requests that the engine does not know yet that all, or those with a prefix, end."""
        for rid in self.active:
            self.active[rid] |= prefix is None or rid.startswith(prefix)

    async def in_worker(self, function: Callable[[], Result]) -> Result:
        """Run what takes long in a thread, so that streams go on meanwhile; only a few run at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._workers, function)

    def close(self) -> None:
        """Begin no more work in threads; what has begun is not waited for."""
        self._workers.shutdown(wait=False, cancel_futures=True)


STATE: web.AppKey[ServerState] = web.AppKey("state", ServerState)


def state_of(request: web.Request) -> ServerState:
    """Give the state of the server that got a request."""
    return request.app[STATE]


def json_safe(value: Any) -> Any:
    """Turn tuples and paths into what JSON has."""
    if isinstance(value, dict):
        return {key: json_safe(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_safe(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
