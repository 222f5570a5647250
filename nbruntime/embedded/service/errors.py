"""Errors with the status and body that SGLang's protocol gives them."""

from __future__ import annotations

from typing import Any


class ReplyError(Exception):
    """An error with the HTTP status and JSON body of its reply, and a message for a stream that has begun."""

    def __init__(self, status: int, body: Any, message: str) -> None:
        super().__init__(message)
        self.status, self.body, self.message = status, body, message


def bad_value(message: str) -> ReplyError:
    """Make the error of a well-formed request with an invalid value."""
    return ReplyError(400, {"error": {"message": message}}, message)


def broken_contract(message: str) -> ReplyError:
    """Make the error of sampling parameters with a wrong name or type."""
    return ReplyError(400, {"error": message}, message)


def http_error(status: int, message: str, kind: str | None = None) -> ReplyError:
    """Make an error in the flat shape; its type defaults to the status."""
    body = {"object": "error", "message": message, "type": kind or str(status), "param": None, "code": status}
    return ReplyError(status, body, message)


def invalid_body(*problems: dict[str, Any]) -> ReplyError:
    """Make the error of fields with wrong types, as pydantic reports it through SGLang."""
    plural = "s" if len(problems) > 1 else ""
    lines = "".join(f"\n  {problem}" for problem in problems)
    return http_error(400, f"{len(problems)} validation error{plural}:{lines}", "Bad Request")
