"""Turns error answers of a server into nbruntime's errors.

SGLang has five forms: ``{"error": "..."}`` from the contract and from the key check,
``{"error": {"message": ...}}`` from its own checks, ``{"object": "error", "message": ...}`` from FastAPI's,
``{"success": false, "message" | "error_message": ...}`` from control routes, and plain text.
"""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from typing import Any

from nbruntime.errors import (
    LONGEST_MESSAGE,
    AuthenticationError,
    BadRequestError,
    NotFoundError,
    ServerBusyError,
    ServerFailureError,
    ServerStatusError,
)


def server_message(body: bytes | str) -> str:
    r"""Return the message in the body of an error answer; empty if there is none.

    Examples
    --------
    >>> server_message(b'{"error":{"message":"top_p must be in (0, 1], got 2."}}')
    'top_p must be in (0, 1], got 2.'
    >>> server_message("Internal Server Error")
    'Internal Server Error'
    """
    text = body if isinstance(body, str) else body.decode("utf-8", "replace")
    try:
        found = _message_in(json.loads(text))
    except (ValueError, RecursionError):
        found = None
    return (text if found is None else found).strip()[:LONGEST_MESSAGE]


def error_class(status: int) -> type[ServerStatusError]:
    """Return the class of error for an HTTP status."""
    match status:
        case 401 | 403 | 407:
            return AuthenticationError
        case 404 | 405 | 501:
            return NotFoundError
        case 429 | 503:
            return ServerBusyError
        case _ if 400 <= status < 500:
            return BadRequestError
        case _ if status >= 500:
            return ServerFailureError
        case _:
            return ServerStatusError


def error_of_response(
    status: int,
    body: bytes | str,
    *,
    where: str | None = None,
    hint: str | None = None,
    who: str = "The server",
) -> ServerStatusError:
    """Make the error for an answer with an error status; `where` is the URL of the request, `who` answered.

    Examples
    --------
    >>> print(error_of_response(400, '{"error": "unknown field `foo`"}', where="http://localhost/generate"))
    The server answered 400 Bad Request: unknown field `foo` (http://localhost/generate)
    Change the request as the message says; sending it again will not help.
    """
    server_words = server_message(body)
    try:
        name = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        name = str(status)
    # Validation errors list the server's own source files after an empty line.
    shown = server_words.split("\n\n", 1)[0].rstrip()
    if hint is None and is_too_long(server_words):
        hint = TOO_LONG_HINT
    message = f"{who} answered {name}" + (f": {shown}" if shown and shown not in name else "")
    return error_class(status)(message, status=status, server_message=server_words, where=where, hint=hint)


TOO_LONG_HINT = "Shorten the prompt or lower max_new_tokens, or serve the model with a larger context_length."
"""Hint for a request that does not fit into the context."""

_TOO_LONG = re.compile(
    r"(longer than|exceeds?) the model's (maximum )?context length|longer than the KV cache"
)


def is_too_long(message: str) -> bool:
    """Tell from the server's message whether a request does not fit into the context."""
    return _TOO_LONG.search(message) is not None


def _message_in(body: Any) -> str | None:
    match body:
        case str():
            return body
        case {"error": str(message)} | {"error": {"message": str(message)}}:
            return message
        case {"message": str(message)} | {"error_message": str(message)} | {"detail": str(message)}:
            return message
        case _:
            return None
