"""The name that was probably meant by one that does not exist."""

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
}
"""Names of the same parameters in other libraries."""


def nearest_name(name: str, names: Iterable[str]) -> str | None:
    """Find the existing name that was probably meant; None where none is near.

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
