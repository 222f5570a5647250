"""The fields of a ``/generate`` request besides prompt and sampling parameters, and what may stand in them.

The types are those of SGLang 0.5.23 (``api/v1/api_types.py`` of the wheel): the same check here costs no
round trip, and names the argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nbruntime.errors import ArgumentTypeError


@dataclass(frozen=True, slots=True)
class _Kind:
    """What may stand in a field.

    Parameters
    ----------
    type : type
        Of the value; `object` for anything.
    each : bool
        Whether it may also be a list with one value, or None, for each prompt.
    listed : bool
        Whether the value is a list of that type.
    """

    type: type
    each: bool = False
    listed: bool = False

    def fits(self, value: Any) -> bool:
        if self._is_one(value):
            return True
        return (
            self.each and isinstance(value, list) and all(one is None or self._is_one(one) for one in value)
        )

    def _is_one(self, value: Any) -> bool:
        if self.listed:
            return isinstance(value, list) and all(self._is_item(item) for item in value)
        return self._is_item(value)

    def _is_item(self, value: Any) -> bool:
        if isinstance(value, bool) and self.type is int:
            return False
        return isinstance(value, self.type)

    def __str__(self) -> str:
        name = _WORDS[self.type]
        one = f"a list of {name.split(' ', 1)[1]}s" if self.listed else name
        return f"{one}, or a list with one for each prompt" if self.each else one


_WORDS = {bool: "a bool", int: "an int", str: "a text", dict: "a dict"}

_OPTIONS = {
    "return_logprob": _Kind(bool, each=True),
    "logprob_start_len": _Kind(int, each=True),
    "top_logprobs_num": _Kind(int, each=True),
    "token_ids_logprob": _Kind(int, each=True, listed=True),
    "return_text_in_logprobs": _Kind(bool),
    "return_hidden_states": _Kind(bool, each=True),
    "return_prompt_token_ids": _Kind(bool),
    "lora_path": _Kind(str, each=True),
    "session_params": _Kind(object),
    "session_id": _Kind(str),
    "image_data": _Kind(object),
    "video_data": _Kind(object),
    "audio_data": _Kind(object),
    "modalities": _Kind(str, each=True),
    "custom_logit_processor": _Kind(str, each=True),
    "custom_labels": _Kind(dict),
    "priority": _Kind(int),
    "extra_key": _Kind(str, each=True),
    "cache_salt": _Kind(str, each=True),
    "routing_key": _Kind(str),
    "conversation_id": _Kind(str),
    "require_reasoning": _Kind(bool),
    "max_thinking_tokens": _Kind(int),
    "routed_dp_rank": _Kind(int),
    "data_parallel_rank": _Kind(int),
    "bootstrap_host": _Kind(str, each=True),
    "bootstrap_port": _Kind(int, each=True),
    "bootstrap_room": _Kind(int, each=True),
    "log_metrics": _Kind(bool),
    "no_logs": _Kind(bool),
}

OPTION_NAMES = tuple(_OPTIONS)
"""Fields of the request besides prompt, ``sampling_params``, ``rid`` and ``stream``."""

_OF_OTHER_ROUTES = {
    "dimensions": _Kind(int),
    "add_special_tokens": _Kind(bool),
    "skip_special_tokens": _Kind(bool),
}


def check_option(name: str, value: Any) -> None:
    """Check the type of a field.

    Parameters
    ----------
    name : str
        One of `OPTION_NAMES`, or an argument of another route.
    value : object
        As JSON takes it: a list, not a tuple.

    Raises
    ------
    ArgumentTypeError
        If SGLang would refuse it.

    Examples
    --------
    >>> check_option("return_logprob", [True, False])
    >>> check_option("top_logprobs_num", "3")
    Traceback (most recent call last):
        ...
    nbruntime.errors.ArgumentTypeError: top_logprobs_num is '3'
    Nothing was sent: give an int, or a list with one for each prompt.
    """
    kind = _OPTIONS.get(name) or _OF_OTHER_ROUTES[name]
    if not kind.fits(value):
        raise ArgumentTypeError(f"{name} is {value!r}", hint=f"Nothing was sent: give {kind}.")
