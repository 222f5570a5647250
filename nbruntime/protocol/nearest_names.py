"""Suggests the right name for an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["nearest_name"]

_NAMES_ELSEWHERE = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "max_length": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "seed": "sampling_seed",
    "num_return_sequences": "n",
    "stop_sequences": "stop",
    "logprobs": "return_logprob",
    "top_logprobs": "top_logprobs_num",
    "response_format": "json_schema",
    "guided_json": "json_schema",
    "guided_regex": "regex",
    "grammar": "ebnf",
    "request_timeout": "timeout",
}
"""Names of the same parameters in other libraries."""


def nearest_name(name: str, names: Iterable[str]) -> str | None:
    """Return the known name nearest to an unknown one, or None.

    Examples
    --------
    >>> nearest_name("temprature", ("temperature", "top_p"))
    'temperature'
    >>> nearest_name("max_tokens", ("max_new_tokens", "min_p"))
    'max_new_tokens'
    """
    names = tuple(names)
    elsewhere = _NAMES_ELSEWHERE.get(name)
    if elsewhere in names:
        return elsewhere
    return next(iter(difflib.get_close_matches(name, names, n=1)), None)
