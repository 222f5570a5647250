"""Checks of an answer of ``/generate``, whole or as an event of a stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_KINDS: dict[str, type] = {"text": str, "output_ids": list, "prompt_token_ids": list, "meta_info": dict}


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


def scrub_reason(meta_info: dict[str, Any], scrub: Callable[[str], str]) -> None:
    """Mask secrets in the server's message about an abort, in place.

    Parameters
    ----------
    meta_info : dict
        From an answer that `first_invalid_field` has checked.
    scrub : callable
        Masks the secrets of a text.

    Examples
    --------
    >>> meta_info = {"finish_reason": {"type": "abort", "message": "Bearer sk-1"}}
    >>> scrub_reason(meta_info, lambda text: text.replace("sk-1", "***"))
    >>> meta_info["finish_reason"]["message"]
    'Bearer ***'
    """
    reason = meta_info.get("finish_reason")
    if reason and isinstance(reason.get("message"), str):
        reason["message"] = scrub(reason["message"])
