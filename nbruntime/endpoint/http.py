"""The steps of an operation: requests and responses, without input or output.

An operation (`nbruntime.endpoint.operations`) is a generator that yields steps and gets back their results
or exceptions. The transports run it blocking or in an event loop, so both clients behave in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from nbruntime.endpoint.settings import Settings
from nbruntime.endpoint.transport_errors import not_json
from nbruntime.errors import ArgumentTypeError, ArgumentValueError

_PLAIN_VALUES = "Give texts, numbers, lists and dicts; an image goes into image_data=... of a prompt."

INFO_TIMEOUT = 60.0
"""Seconds for an answer that needs no model."""

ABORT_TIMEOUTS = (2.0, 5.0)
"""Seconds to connect and to wait for the answer to an abort: short, since the user has just pressed stop."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A step that sends a request and gives the `HttpResponse`, or the opened body of a stream."""

    method: str
    path: str
    body: Any = None  # sent as JSON
    streamed: bool = False  # True if the answer is an event stream
    safe: bool = False  # send it again if a kept connection was closed; never a generation
    limits: tuple[float | None, float | None] = (None, None)  # as `timeouts`, besides those of the settings

    def timeouts(self, settings: Settings) -> tuple[float | None, float | None]:
        """Return the seconds to wait for a connection, and for the next bytes."""
        connect, read = self.limits
        return _least(settings.connect_timeout, connect), _least(settings.read_timeout, read)

    def headers(self, settings: Settings) -> dict[str, str]:
        """Make the headers of the request, with the key."""
        headers = {"User-Agent": "nbruntime"}
        if self.streamed:
            # Proxies may tell by this very text that a stream is to be passed on piece by piece.
            headers["Accept"] = "text/event-stream"
            headers["Accept-Encoding"] = "identity"
        else:
            headers["Accept"] = "application/json, */*;q=0.5"
            headers["Accept-Encoding"] = "gzip, deflate"
        if self.body is not None:
            headers["Content-Type"] = "application/json"
        if key := settings.secret.reveal():
            headers["Authorization"] = f"Bearer {key}"
        return headers

    def data(self) -> bytes | None:
        """Encode the body in UTF-8, without NaN, which is not JSON."""
        if self.body is None:
            return None
        try:
            return json.dumps(self.body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        except TypeError as error:
            message = f"The request cannot be written as JSON: {error}"
            raise ArgumentTypeError(message, hint=_PLAIN_VALUES) from None
        except ValueError as error:  # also of the encoding: half a surrogate pair
            message = f"The request cannot be written as JSON: {error}"
            raise ArgumentValueError(message, hint="Remove NaN, infinity and broken characters.") from None


def get(path: str) -> HttpRequest:
    """Make a request that reads a route and does not wait for the model."""
    return HttpRequest("GET", path, safe=True, limits=(None, INFO_TIMEOUT))


def abort(rid: str) -> HttpRequest:
    """Make a request that stops another one; a name that the server does not know is no error."""
    return HttpRequest("POST", "/abort_request", {"rid": rid}, safe=True, limits=ABORT_TIMEOUTS)


@dataclass(frozen=True, slots=True)
class Abort:
    """A step that stops requests whose caller no longer waits; its failure is only logged."""

    rids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunInThread:
    """A step that calls a function which may take seconds, such as loading a tokenizer."""

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """The answer to a request, with a status below 300; `path` is its route, `content` its body."""

    settings: Settings
    path: str
    content: bytes

    @property
    def url(self) -> str:
        """The URL of the route."""
        return self.settings.url(self.path)

    def text(self) -> str:
        """Decode the body, with the key masked."""
        return self.settings.secret.scrub(self.content.decode("utf-8", "replace"))

    def json(self) -> Any:
        """Parse the body; raise a `ProtocolError` if it is not JSON."""
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError):
            raise not_json(self.settings, self.path, self.content) from None


def _least(own: float | None, limit: float | None) -> float | None:
    return min((seconds for seconds in (own, limit) if seconds is not None), default=None)


_T = TypeVar("_T")

Operation = Generator[HttpRequest | Abort | RunInThread, Any, _T]
"""A generator that yields steps, and returns a result."""
