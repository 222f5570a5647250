"""The types of the fields of a ``/generate`` request besides prompt and sampling parameters.

As in SGLang 0.5.23 (``api/v1/api_types.py`` of the wheel); the error here names the argument.
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
        return self.each and isinstance(value, list) and all(v is None or self._is_one(v) for v in value)

    def _is_one(self, value: Any) -> bool:
        if self.listed:
            return isinstance(value, list) and all(self._is_item(item) for item in value)
        return self._is_item(value)

    def _is_item(self, value: Any) -> bool:
        return isinstance(value, self.type) and not (self.type is int and isinstance(value, bool))

    def __str__(self) -> str:
        name = _WORDS[self.type]
        one = f"a list of {name.split(' ', 1)[1]}s" if self.listed else name
        return f"{one}, or a list with one for each prompt" if self.each else one


_WORDS = {bool: "a bool", int: "an int", str: "a text", dict: "a dict"}

_NAMES_BY_TYPE = {
    _FieldType(bool): (
        "return_text_in_logprobs",
        "return_prompt_token_ids",
        "require_reasoning",
        "log_metrics",
        "no_logs",
    ),
    _FieldType(bool, each=True): ("return_logprob", "return_hidden_states"),
    _FieldType(int): ("priority", "max_thinking_tokens", "routed_dp_rank", "data_parallel_rank"),
    _FieldType(int, each=True): ("logprob_start_len", "top_logprobs_num", "bootstrap_port", "bootstrap_room"),
    _FieldType(int, each=True, listed=True): ("token_ids_logprob",),
    _FieldType(str): ("session_id", "routing_key", "conversation_id"),
    _FieldType(str, each=True): (
        "lora_path",
        "modalities",
        "custom_logit_processor",
        "extra_key",
        "cache_salt",
        "bootstrap_host",
    ),
    _FieldType(dict): ("custom_labels",),
    _FieldType(object): ("session_params", "image_data", "video_data", "audio_data"),
}
_OPTIONS = {name: field_type for field_type, names in _NAMES_BY_TYPE.items() for name in names}

OPTION_NAMES = tuple(_OPTIONS)
"""Fields of the request besides the prompt, ``sampling_params``, ``rid`` and ``stream``."""

_OPTIONS_OF_OTHER_ROUTES = {
    "dimensions": _FieldType(int),
    "add_special_tokens": _FieldType(bool),
    "skip_special_tokens": _FieldType(bool),
}


def check_option(name: str, value: Any) -> None:
    """Raise an ArgumentTypeError if SGLang would refuse the type of a field; a tuple is not a list.

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
