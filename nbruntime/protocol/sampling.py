"""Sampling parameters as SGLang 0.5.23 defines them: names, types, ranges and messages.

The clients check a request with it before they send it; the embedded server answers with SGLang's own
messages (``srt/sampling/sampling_params.py`` and ``api/v1/api_types.py`` of the 0.5.23 wheel).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

ALL_TOKENS = 1 << 30
"""``top_k`` for the whole vocabulary."""

GREEDY_TEMPERATURE = 1e-6
"""Below this temperature the most likely token is taken."""

GRAMMARS = ("json_schema", "regex", "ebnf", "structural_tag")
"""Parameters with a grammar; a request has at most one."""

MAX_STOP_STRINGS = 32
MAX_STOP_REGEXES = 32
MAX_STOP_REGEX_BYTES = 256
MAX_SEED = 2**63
MAX_LOGIT_BIAS = 1e30
"""Far above any logit, and finite in 32 bits when divided by the smallest temperature."""


class ContractError(ValueError):
    """A value with the wrong type or an unknown name, in the words of SGLang's JSON contract."""

    parameter: str | None = None  # the sampling parameter whose value has the wrong type


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the tokens of one request are chosen, and when it ends.

    Examples
    --------
    >>> params = SamplingParams.from_dict({"temperature": 0, "stop": "."})
    >>> params.greedy, params.stop, params.max_new_tokens
    (True, ('.',), 128)
    >>> SamplingParams.from_dict({"top_p": 2}).verify()
    Traceback (most recent call last):
        ...
    ValueError: top_p must be in (0, 1], got 2.
    """

    # The order is that of SGLang's own list of names, which its error message prints.
    max_new_tokens: int | None = 128  # 0 scores the prompt only, None fills the context
    stop: tuple[str, ...] = ()  # texts that end the generation; cut off unless no_stop_trim
    stop_token_ids: tuple[int, ...] = ()  # besides the model's own end tokens
    stop_regex: tuple[str, ...] = ()  # patterns that end the generation when the text matches
    temperature: float = 1.0  # 0 takes the most likely token
    top_p: float = 1.0  # nucleus mass in (0, 1]
    top_k: int = ALL_TOKENS  # number of candidates; -1 for all
    min_p: float = 0.0  # least probability relative to the most likely token, in [0, 1]
    # Penalties on tokens that were generated already: the first two, in [-2, 2], are subtracted from the
    # logit (per occurrence, once); the third, in (0, 2], divides a positive and multiplies a negative one.
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_new_tokens: int = 0
    n: int = 1  # answers to each prompt
    # A grammar that the text must follow; at most one.
    json_schema: str | None = None
    regex: str | None = None
    ebnf: str | None = None
    structural_tag: str | None = None
    ignore_eos: bool = False  # go on after the model's end token
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    no_stop_trim: bool = False  # keep the stop text or token in the answer
    stream_interval: int | None = None  # tokens per streamed event
    logit_bias: dict[int, float] | None = None  # added to the logits of tokens
    sampling_seed: int | None = None  # makes the sampling repeatable; each of n answers differs
    custom_params: Any = None  # for custom logit processors
    beam_width: int | None = None  # more than 1 for beam search
    watermark: dict[str, Any] | None = None
    choice: tuple[str, ...] = ()  # texts to choose from

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SamplingParams:
        """Read the object under ``sampling_params``; null means the default.

        Raises ContractError for an unknown name or a wrong type; `verify` checks the ranges.
        """
        read: dict[str, Any] = {}
        for name, value in values.items():
            reader = _READERS.get(name)
            if reader is None:
                raise _unknown_name(name, PARAMETER_NAMES)
            try:
                if value is not None:
                    read[name] = reader(value)
                elif name == "max_new_tokens":
                    read[name] = None
            except ContractError as error:
                error.parameter = name
                raise
        for name in GRAMMARS:
            if read.get(name) == "":
                read[name] = None  # an empty grammar means none, not empty text
        if read.get("top_k") == -1:
            read["top_k"] = ALL_TOKENS
        return cls(**read)

    @property
    def greedy(self) -> bool:
        """True if the most likely token is always taken."""
        return self.temperature < GREEDY_TEMPERATURE or self.top_k == 1

    @property
    def grammar(self) -> tuple[str, str] | None:
        """Kind and text of the grammar, or None."""
        given = ((kind, getattr(self, kind)) for kind in GRAMMARS)
        return next(((kind, text) for kind, text in given if text is not None), None)

    def verify(self, vocab_size: int | None = None) -> None:
        """Raise a ValueError with SGLang's message for the first parameter out of range.

        Token ids are checked only if `vocab_size` is given; a client does not know it.
        """
        if self.beam_width is not None and self.beam_width < 1:
            raise ValueError(f"beam_width must be at least 1, got {self.beam_width}.")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature must be a non-negative finite number, got {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}.")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must be in [0, 1], got {self.min_p}.")
        if self.top_k < 1:
            raise ValueError(f"top_k must be -1 (disable) or at least 1, got {self.top_k}.")
        for name in ("frequency_penalty", "presence_penalty"):
            value = getattr(self, name)
            if not -2 <= value <= 2:
                raise ValueError(f"{name} must be in [-2, 2], got {value}.")
        if not 0 < self.repetition_penalty <= 2:
            raise ValueError(
                f"repetition_penalty must be in (0, 2] (1.0 = no penalty), got {self.repetition_penalty}."
            )
        if self.min_new_tokens < 0:
            raise ValueError(f"min_new_tokens must be in [0, max_new_tokens], got {self.min_new_tokens}.")
        if self.max_new_tokens is not None:
            if self.max_new_tokens < 0:
                raise ValueError(f"max_new_tokens must be at least 0, got {self.max_new_tokens}.")
            if self.min_new_tokens > self.max_new_tokens:
                raise ValueError(
                    f"min_new_tokens must be in [0, max_new_tokens({self.max_new_tokens})], "
                    f"got {self.min_new_tokens}."
                )
        if vocab_size is not None:
            for token_id in self.logit_bias or ():
                if not 0 <= token_id < vocab_size:
                    raise ValueError(f"logit_bias must has keys in [0, {vocab_size - 1}], got {token_id}.")
        for bias in (self.logit_bias or {}).values():
            if not abs(bias) <= MAX_LOGIT_BIAS:
                raise ValueError(
                    f"logit_bias must have values in [-{MAX_LOGIT_BIAS:g}, {MAX_LOGIT_BIAS:g}], got {bias}."
                )
        if self.sampling_seed is not None and not -MAX_SEED <= self.sampling_seed < MAX_SEED:
            raise ValueError(f"sampling_seed must be in [-2**63, 2**63 - 1], got {self.sampling_seed}.")
        if sum(getattr(self, kind) is not None for kind in GRAMMARS) > 1:
            raise ValueError("Only one of json_schema, regex, ebnf, or structural_tag can be set.")
        if len(self.stop) > MAX_STOP_STRINGS:
            raise ValueError(f"stop accepts at most {MAX_STOP_STRINGS} strings, got {len(self.stop)}.")
        if len(self.stop_regex) > MAX_STOP_REGEXES:
            raise ValueError(
                f"stop_regex accepts at most {MAX_STOP_REGEXES} patterns, got {len(self.stop_regex)}."
            )
        for pattern in self.stop_regex:
            if len(pattern.encode()) > MAX_STOP_REGEX_BYTES:
                raise ValueError(
                    f"stop_regex patterns have at most {MAX_STOP_REGEX_BYTES} bytes, "
                    f"got {len(pattern.encode())}."
                )


PARAMETER_NAMES = tuple(field.name for field in fields(SamplingParams))
"""Names allowed in ``sampling_params``, in SGLang's order."""


def _unexpected(value: Any) -> str:
    """Name a JSON value as SGLang's contract errors do."""
    match value:
        case None:
            return "null"
        case bool():
            return f"boolean `{str(value).lower()}`"
        case int():
            return f"integer `{value}`"
        case float():
            return f"floating point `{value}`"
        case str():
            return f'string "{value}"'
        case list() | tuple():
            return "sequence"
        case dict():
            return "map"
        case _:
            return type(value).__name__


def _unknown_name(name: str, known: Iterable[str]) -> ContractError:
    listed = ", ".join(f"`{each}`" for each in known)
    return ContractError(f"unknown field `{name}`, expected one of {listed}")


def _wrong_type(value: Any, expected: str) -> ContractError:
    return ContractError(f"invalid type: {_unexpected(value)}, expected {expected}")


def _reader(kind: type, expected: str) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
        raise _wrong_type(value, expected)

    return read


_int, _str, _bool = _reader(int, "i64"), _reader(str, "a string"), _reader(bool, "a boolean")


def _float(value: Any) -> float:
    # The number stays as it was sent, so that messages show it unchanged.
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            float(value)
        except OverflowError as error:
            raise ContractError("number out of range, expected f64") from error
        return value
    raise _wrong_type(value, "f64")


def _strings(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list | tuple):
        return _texts(value)
    raise _wrong_type(value, "a value or an array of values for StringOrList")


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, list | tuple):
        return tuple(_str(item) for item in value)
    raise _wrong_type(value, "a sequence")


def _ints(value: Any) -> tuple[int, ...]:
    if isinstance(value, list | tuple):
        return tuple(_int(item) for item in value)
    raise _wrong_type(value, "a sequence")


def _logit_bias(value: Any) -> dict[int, float]:
    if not isinstance(value, Mapping):
        raise _wrong_type(value, "a map")
    try:
        return {int(token_id): _float(bias) for token_id, bias in value.items()}
    except ValueError as error:
        if isinstance(error, ContractError):
            raise
        raise ContractError(f"logit_bias takes token ids as keys: {error}") from error


def _watermark(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong_type(value, "struct WatermarkRequestConfig")
    for name, option in value.items():
        reader = _WATERMARK_READERS.get(name)
        if reader is None:
            raise _unknown_name(name, _WATERMARK_READERS)
        if option is not None:
            reader(option)
    return dict(value)


_WATERMARK_READERS: dict[str, Callable[[Any], Any]] = {"enabled": _bool, "key": _str, "context_window": _int}

_READER_OF_TYPE: dict[Any, Callable[[Any], Any]] = {
    "bool": _bool,
    "int": _int,
    "int | None": _int,
    "float": _float,
    "str | None": _str,
    "tuple[int, ...]": _ints,
    "tuple[str, ...]": _texts,
    "dict[int, float] | None": _logit_bias,
    "dict[str, Any] | None": _watermark,
    "Any": lambda value: value,
}
_READERS = {field.name: _READER_OF_TYPE[field.type] for field in fields(SamplingParams)}
_READERS |= {"stop": _strings, "stop_regex": _strings}  # may also be one text
