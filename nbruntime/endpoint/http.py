"""What a call asks of whoever runs it: the calls themselves do no input or output.

A call (`nbruntime.endpoint.operations`) is a generator. It yields what it needs, gets it back as the value of
the ``yield`` or as an exception, and returns its result. `nbruntime.endpoint.transport` runs calls with
blocking input and output, `nbruntime.endpoint.async_transport` in an event loop; so both clients send the
same, read the same and fail in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from nbruntime.endpoint.settings import Settings
from nbruntime.endpoint.transport_errors import not_json
from nbruntime.errors import ArgumentTypeError, ArgumentValueError

INFO_TIMEOUT = 60.0
"""Seconds for an answer that needs no model."""

ABORT_TIMEOUTS = (2.0, 5.0)
"""Seconds to connect and to wait for the answer to an abort: somebody has just pressed stop."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """Send a request, and give the `HttpResponse` or, of a stream, its opened body.

    Parameters
    ----------
    method, path : str
        ``"POST"`` and ``"/generate"``, for example.
    body : object, optional
        Sent as JSON.
    streamed : bool
        Whether the answer is an event stream.
    safe : bool
        Whether nothing changes when the server gets it twice: it is sent once more if a kept connection
        turns out to be closed. A generation is never sent twice.
    limits : (float or None, float or None)
        Seconds to wait at most for a connection and for the next bytes, however long the settings allow.
    """

    method: str
    path: str
    body: Any = None
    streamed: bool = False
    safe: bool = False
    limits: tuple[float | None, float | None] = (None, None)

    def timeouts(self, settings: Settings) -> tuple[float | None, float | None]:
        """Give the seconds to wait for a connection, and for the next bytes."""
        connect, read = self.limits
        return _least(settings.connect_timeout, connect), _least(settings.read_timeout, read)

    def data(self) -> bytes | None:
        """Write the body: UTF-8, without NaN, which is not JSON."""
        if self.body is None:
            return None
        try:
            return json.dumps(self.body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        except TypeError as error:
            raise ArgumentTypeError(
                f"The request cannot be written as JSON: {error}", hint="Give plain Python values."
            ) from None
        except ValueError as error:  # also of the encoding: half a surrogate pair
            raise ArgumentValueError(
                f"The request cannot be written as JSON: {error}",
                hint="Take out NaN, infinity and broken characters.",
            ) from None


def get(path: str) -> HttpRequest:
    """Read a route that has no effects and needs no model."""
    return HttpRequest("GET", path, safe=True, limits=(None, INFO_TIMEOUT))


def abort(rid: str) -> HttpRequest:
    """Stop a request on the server; a name that it does not know is no error."""
    return HttpRequest("POST", "/abort_request", {"rid": rid}, safe=True, limits=ABORT_TIMEOUTS)


@dataclass(frozen=True, slots=True)
class Abort:
    """Stop requests on the server that nobody waits for any more; it does not matter whether that fails."""

    rids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunInThread:
    """Do something here that may take seconds, such as loading a tokenizer, and give what it returns."""

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """The answer to a request, with a status below 300.

    Parameters
    ----------
    settings : Settings
        Whose server it came from.
    path : str
        The route.
    content : bytes
        The body.
    """

    settings: Settings
    path: str
    content: bytes

    @property
    def url(self) -> str:
        """The whole address of the route."""
        return self.settings.url(self.path)

    def text(self) -> str:
        """Give the body as text, the key masked."""
        return self.settings.secret.scrub(self.content.decode("utf-8", "replace"))

    def json(self) -> Any:
        """Read the body.

        Raises
        ------
        ProtocolError
            If it is not JSON.
        """
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError):
            raise not_json(self.settings, self.path, self.content) from None


def _least(own: float | None, limit: float | None) -> float | None:
    return min((seconds for seconds in (own, limit) if seconds is not None), default=None)


_T = TypeVar("_T")

Operation = Generator[HttpRequest | Abort | RunInThread, Any, _T]
"""A generator that yields what it needs, and returns a result."""
