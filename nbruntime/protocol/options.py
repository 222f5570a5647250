"""The types of the fields of a ``/generate`` request besides prompt and sampling parameters.

They are those of SGLang 0.5.23 (``api/v1/api_types.py`` of the wheel). Checking them here saves a round
trip, and the error names the argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nbruntime.errors import ArgumentTypeError


@dataclass(frozen=True, slots=True)
class _FieldType:
    """The type of a field."""

    type: type  # object for any
    each: bool = False  # True if it may also be a list with one value, or None, for each prompt
    listed: bool = False  # True if the value is a list of `type`

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
    "return_logprob": _FieldType(bool, each=True),
    "logprob_start_len": _FieldType(int, each=True),
    "top_logprobs_num": _FieldType(int, each=True),
    "token_ids_logprob": _FieldType(int, each=True, listed=True),
    "return_text_in_logprobs": _FieldType(bool),
    "return_hidden_states": _FieldType(bool, each=True),
    "return_prompt_token_ids": _FieldType(bool),
    "lora_path": _FieldType(str, each=True),
    "session_params": _FieldType(object),
    "session_id": _FieldType(str),
    "image_data": _FieldType(object),
    "video_data": _FieldType(object),
    "audio_data": _FieldType(object),
    "modalities": _FieldType(str, each=True),
    "custom_logit_processor": _FieldType(str, each=True),
    "custom_labels": _FieldType(dict),
    "priority": _FieldType(int),
    "extra_key": _FieldType(str, each=True),
    "cache_salt": _FieldType(str, each=True),
    "routing_key": _FieldType(str),
    "conversation_id": _FieldType(str),
    "require_reasoning": _FieldType(bool),
    "max_thinking_tokens": _FieldType(int),
    "routed_dp_rank": _FieldType(int),
    "data_parallel_rank": _FieldType(int),
    "bootstrap_host": _FieldType(str, each=True),
    "bootstrap_port": _FieldType(int, each=True),
    "bootstrap_room": _FieldType(int, each=True),
    "log_metrics": _FieldType(bool),
    "no_logs": _FieldType(bool),
}

OPTION_NAMES = tuple(_OPTIONS)
"""Fields of the request besides the prompt, ``sampling_params``, ``rid`` and ``stream``."""

_OPTIONS_OF_OTHER_ROUTES = {
    "dimensions": _FieldType(int),
    "add_special_tokens": _FieldType(bool),
    "skip_special_tokens": _FieldType(bool),
}


def check_option(name: str, value: Any) -> None:
    """Check the type of a field.

    Parameters
    ----------
    name : str
        One of `OPTION_NAMES`, or an argument of another route.
    value : object
        The value in JSON's types: a list, not a tuple.

    Raises
    ------
    ArgumentTypeError
        If SGLang would refuse the type.

    Examples
    --------
    >>> check_option("return_logprob", [True, False])
    >>> check_option("top_logprobs_num", "3")
    Traceback (most recent call last):
        ...
    nbruntime.errors.ArgumentTypeError: top_logprobs_num is '3'
    Nothing was sent: give an int, or a list with one for each prompt.
    """
    expected = _OPTIONS.get(name) or _OPTIONS_OF_OTHER_ROUTES[name]
    if not expected.fits(value):
        raise ArgumentTypeError(f"{name} is {value!r}", hint=f"Nothing was sent: give {expected}.")
