"""Incremental decoding of an answer, and its stop strings."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import regex

from nbruntime.embedded.text.tokenizer import Tokenizer
from nbruntime.protocol.sampling import SamplingParams

_CONTEXT_TOKENS = 5
"""Prompt tokens before the first decoded one: some tokenizers drop the space of a first word."""

REGEX_SECONDS = 0.05
"""Time limit of a search for stop patterns, which holds up all other requests."""

REGEX_SIZE = 10_000
"""Largest product of a stop pattern's length and repeat counts; the compiled pattern grows with it."""


class StopRegexTimeout(Exception):
    """The search for a stop pattern took too long."""


@lru_cache(maxsize=32)
def compile_stop_regex(pattern: str) -> Any:
    """Compile a stop pattern; ValueError if it is invalid or too large.

    Examples
    --------
    >>> compile_stop_regex("[0-9]{4}").search("in 2024").group()
    '2024'
    >>> compile_stop_regex("((a{1000}){1000}){1000}")
    Traceback (most recent call last):
        ...
    ValueError: stop_regex '((a{1000}){1000}){1000}' repeats too much.
    """
    counts = regex.findall(r"\{\s*(\d+)", pattern)
    if len(pattern) * math.prod(max(1, int(count)) for count in counts) > REGEX_SIZE:
        raise ValueError(f"stop_regex {pattern!r} repeats too much.")
    if regex.search(r"\(\?\w*x", pattern):
        raise ValueError(f"stop_regex {pattern!r} is written with white space: leave out its flag x.")
    try:
        return regex.compile(pattern, cache_pattern=False)
    except (regex.error, RecursionError) as error:
        raise ValueError(f"stop_regex {pattern!r} is not a pattern: {error}.") from error


class TextStream:
    """Decodes an answer token by token, in the context of `prompt_ids`, and looks for stop strings.

    As in SGLang, stop strings and patterns are looked for in the text with special tokens, whether it is
    shown with them or not.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        context = list(prompt_ids[-_CONTEXT_TOKENS:])
        self._stops = [stop for stop in params.stop if stop]
        self._longest_stop = max(map(len, self._stops), default=0)
        self._patterns = [(pattern, compile_stop_regex(pattern)) for pattern in params.stop_regex]
        self._shown = _Decoder(tokenizer, context, skip_special_tokens=params.skip_special_tokens)
        self._settled = 0  # length of the shown text before the last token
        self._searched = (
            _Decoder(tokenizer, context, skip_special_tokens=False) if self._stops or self._patterns else None
        )

    @property
    def text(self) -> str:
        """The text to show, without an incomplete last character."""
        return self._shown.text

    def find_stop(self, token_id: int) -> str | None:
        """Give the stop string or pattern that a new token completes; the first in the request's order.

        The token is not shown before `push`.
        """
        if self._searched is None:
            return None
        scanned = len(self._searched.text)
        self._searched.push(token_id)
        text = self._searched.text
        begin = max(0, scanned - self._longest_stop + 1)
        for stop in self._stops:
            if text.find(stop, begin) >= 0:
                return stop
        deadline = time.monotonic() + REGEX_SECONDS
        for pattern, compiled in self._patterns:
            try:
                match = compiled.search(text, timeout=max(0.0, deadline - time.monotonic()))
            except TimeoutError as error:
                raise StopRegexTimeout(f"The stop_regex {pattern!r} takes too long to search.") from error
            if match:
                return pattern
        return None

    def push(self, token_id: int) -> None:
        """Add one token to the text."""
        self._settled = len(self.text)
        self._shown.push(token_id)

    def flush(self) -> None:
        """Add an incomplete last character to the text: no more tokens will come."""
        self._shown.flush()

    def cut(self, stop: str, *, keep: bool) -> None:
        """End the text before the stop string that its last token completed, or behind it to `keep` it.

        The text of a pattern stays, and that of a stop string with special tokens that are not shown.
        """
        self.flush()
        at = self.text.find(stop, max(0, self._settled - len(stop) + 1))
        if at >= 0:
            self._shown.text = self.text[: at + len(stop) * keep]

    def may_be_stopping(self) -> bool:
        """Tell whether the text ends with the beginning of a stop string."""
        text = self._searched.text if self._searched is not None else ""
        return any(text.endswith(stop[:length]) for stop in self._stops for length in range(1, len(stop)))


class _Decoder:
    """Text of a growing list of tokens; the first ones, `context`, are not part of it."""

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int], *, skip_special_tokens: bool) -> None:
        self.text = ""  # without an incomplete last character
        self._final = ""
        self._tokenizer = tokenizer
        self._skip_special = skip_special_tokens
        self._ids = list(context)
        # The text of the tokens before `read` is final; decoding starts at `start`, to give left context.
        self._start, self._read = 0, len(self._ids)
        self._before = self._decode(self._start, self._read)

    def push(self, token_id: int) -> None:
        self._ids.append(token_id)
        decoded = self._decode(self._start, len(self._ids))
        whole = decoded.rstrip("\ufffd")
        self.text = self._final + whole[len(self._before) :]
        if len(whole) == len(decoded) > len(self._before):
            self._final = self.text
            self._start, self._read = self._read, len(self._ids)
            self._before = self._decode(self._start, self._read)

    def flush(self) -> None:
        self.text = self._final + self._decode(self._start, len(self._ids))[len(self._before) :]

    def _decode(self, start: int, end: int) -> str:
        return self._tokenizer.decode(self._ids[start:end], skip_special_tokens=self._skip_special)
