"""What a server's error answer means: one reading for all the shapes that SGLang has.

``/generate`` alone answers in five: ``{"error": "..."}`` from the contract and from the key check,
``{"error": {"message": ...}}`` from its own checks, ``{"object": "error", "message": ...}`` from FastAPI's,
``{"success": false, "message" | "error_message": ...}`` from control routes, and plain text.
"""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from typing import Any

from nbruntime.errors import (
    AuthenticationError,
    BadRequestError,
    NotFoundError,
    ServerBusyError,
    ServerFailureError,
    ServerStatusError,
)

_LONGEST_MESSAGE = 2000


def server_message(body: bytes | str) -> str:
    r"""Find the server's own words in the body of an error answer.

    Parameters
    ----------
    body : bytes or str
        The body as it came.

    Returns
    -------
    str
        The message; empty when there is none.

    Examples
    --------
    >>> server_message(b'{"error":{"message":"top_p must be in (0, 1], got 2."}}')
    'top_p must be in (0, 1], got 2.'
    >>> server_message(b'{"error":"Unauthorized"}')
    'Unauthorized'
    >>> server_message("Internal Server Error")
    'Internal Server Error'
    """
    text = body if isinstance(body, str) else body.decode("utf-8", "replace")
    try:
        found = _message_in(json.loads(text))
    except (ValueError, RecursionError):
        found = None
    return (text if found is None else found).strip()[:_LONGEST_MESSAGE]


def error_class(status: int) -> type[ServerStatusError]:
    """Choose the class of error for an HTTP status.

    Examples
    --------
    >>> error_class(503).__name__, error_class(400).__name__
    ('ServerBusyError', 'BadRequestError')
    """
    match status:
        case 401 | 403:
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
    status: int, body: bytes | str, *, where: str | None = None, hint: str | None = None
) -> ServerStatusError:
    """Make the error that stands for an answer without success.

    Parameters
    ----------
    status : int
        HTTP status.
    body : bytes or str
        Body of the answer.
    where : str, optional
        URL that was asked.
    hint : str, optional
        What to do next, if the class has no better one.

    Returns
    -------
    ServerStatusError
        To be raised; its message holds the server's words.

    Examples
    --------
    >>> print(error_of_response(400, '{"error": "unknown field `foo`"}', where="http://localhost/generate"))
    The server answered 400 Bad Request: unknown field `foo` (http://localhost/generate)
    Change the request as the message says; sending it again will not help.
    """
    words = server_message(body)
    try:
        name = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        name = str(status)
    # Validation errors go on with the server's own file names after an empty line.
    shown = words.split("\n\n", 1)[0].rstrip()
    if hint is None and is_too_long(words):
        hint = TOO_LONG_HINT
    message = f"The server answered {name}" + (f": {shown}" if shown and shown not in name else "")
    return error_class(status)(message, status=status, server_message=words, where=where, hint=hint)


TOO_LONG_HINT = "Shorten the prompt or lower max_new_tokens, or serve the model with a larger context_length."
"""What to do about a request that does not fit into the context."""

_TOO_LONG = re.compile(
    r"(longer than|exceeds?) the model's (maximum )?context length|longer than the KV cache"
)


def is_too_long(words: str) -> bool:
    """Tell from the server's words whether a request does not fit into the context.

    Examples
    --------
    >>> is_too_long("The input (9000 tokens) is longer than the model's context length (8192 tokens).")
    True
    """
    return _TOO_LONG.search(words) is not None


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
