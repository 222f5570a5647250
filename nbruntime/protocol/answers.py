"""Checks of an answer of ``/generate``, whole or as an event of a stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_KINDS: dict[str, type] = {"text": str, "output_ids": list, "prompt_token_ids": list, "meta_info": dict}

_LARGEST = 2**53
"""No server counts so far, and larger numbers are not exact."""


def first_invalid_field(answer: Mapping[str, Any]) -> str | None:
    """Find the first field of an answer that has a wrong type; a missing or null field is right.

    Examples
    --------
    >>> first_invalid_field({"text": "Hi", "meta_info": {"finish_reason": "stop"}})
    'finish_reason'
    >>> first_invalid_field({"text": "Hi", "output_ids": [5], "meta_info": {}})
    """
    for name, kind in _KINDS.items():
        if not isinstance(answer.get(name), kind | None):
            return name
    reason = (answer.get("meta_info") or {}).get("finish_reason")
    return None if isinstance(reason, dict | None) else "finish_reason"


def number_in(meta_info: Mapping[str, Any], name: str) -> Any:
    """Return a number of ``meta_info``; None if it is missing, or no number that can be counted.

    Examples
    --------
    >>> number_in({"a": 0.5}, "a"), number_in({"a": float("nan")}, "a")
    (0.5, None)
    """
    figure: Any = meta_info.get(name)
    return figure if type(figure) in (int, float) and abs(figure) < _LARGEST else None


def scrub_reason(meta_info: dict[str, Any], scrub: Callable[[str], str]) -> None:
    """Mask secrets in the message of an abort, in place; the answer must be valid."""
    reason = meta_info.get("finish_reason")
    if reason and isinstance(reason.get("message"), str):
        reason["message"] = scrub(reason["message"])
