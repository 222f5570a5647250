"""What is behind an error of requests or urllib3."""

from __future__ import annotations

from collections.abc import Iterator

import urllib3.exceptions

from nbruntime.errors import NbruntimeError


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Go from an error to its causes, through the wrappers of requests and urllib3."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        inner = getattr(error, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((item for item in error.args if isinstance(item, BaseException)), None)
        error = inner or error.__cause__ or error.__context__


def unconnected(error: BaseException | None) -> bool:
    """Return True if the request was not sent, since there was no connection."""
    return any(isinstance(item, urllib3.exceptions.NewConnectionError) for item in _chain(error))


def timed_out(error: BaseException | None) -> bool:
    """Return True if the server was silent for too long."""
    # requests raises a ConnectionError when an answer stops in its middle.
    return any(isinstance(item, urllib3.exceptions.ReadTimeoutError | TimeoutError) for item in _chain(error))


def reason_of(error: BaseException) -> str:
    """Return the message of the innermost error."""
    innermost: BaseException = error
    for item in _chain(error):
        # The wrapper of a ValueError (not HTTP) explains more; our own errors are of an earlier attempt.
        if isinstance(item, ValueError | NbruntimeError):
            break
        innermost = item
    if isinstance(innermost, OSError) and innermost.strerror:
        return innermost.strerror
    return str(innermost) or type(innermost).__name__
