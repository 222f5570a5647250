"""The state that the handlers of a server share."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from nbruntime.embedded.arguments import ServerArguments
from nbruntime.embedded.engine.engine import SHUTTING_DOWN
from nbruntime.embedded.http.metrics import Metrics
from nbruntime.embedded.service.admission import Admission
from nbruntime.embedded.service.errors import http_error
from nbruntime.embedded.service.service import Service


@dataclass(slots=True)
class ServerState:
    """State of a server from start to stop."""

    arguments: ServerArguments
    metrics: Metrics
    phase: str = "starting"  # "downloading", …, "ready"
    started: float = field(default_factory=time.time)
    startup_seconds: dict[str, float] = field(default_factory=dict)
    stopping: bool = False
    admission: Admission = field(init=False)
    _service: Service | None = None

    def __post_init__(self) -> None:
        self.admission = Admission(self.arguments, lambda: self.service)

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return self._service is not None and not self.stopping and self._service.engine.alive

    @property
    def service(self) -> Service:
        """The loaded model; a ReplyError with status 503 while the server starts or stops."""
        if self._service is None:
            raise http_error(
                503, f"The server is starting ({self.phase}); try again when /health answers 200."
            )
        if not self.ready:
            raise http_error(503, SHUTTING_DOWN)
        return self._service

    def open(self, service: Service) -> None:
        """Start to answer requests."""
        self._service = service
        self.phase = "ready"


STATE: web.AppKey[ServerState] = web.AppKey("state", ServerState)


def state_of(request: web.Request) -> ServerState:
    """Give the state of the server that received a request."""
    return request.app[STATE]


def json_safe(value: Any) -> Any:
    """Turn tuples and sets into lists, and other objects into strings, for JSON."""
    if isinstance(value, dict):
        return {key: json_safe(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_safe(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
