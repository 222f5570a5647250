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
    """Decodes an answer token by token, in the context of `prompt_ids`, and looks for stop strings."""

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        self.text = ""  # without an incomplete last character
        self._settled = ""
        self._tokenizer = tokenizer
        self._skip_special = params.skip_special_tokens
        self._stops = [stop for stop in params.stop if stop]
        self._longest_stop = max(map(len, self._stops), default=0)
        self._patterns = [(pattern, compile_stop_regex(pattern)) for pattern in params.stop_regex]
        self._ids = list(prompt_ids[-_CONTEXT_TOKENS:])
        # The text of the tokens before `read` is final; decoding starts at `start`, to give left context.
        self._start, self._read = 0, len(self._ids)
        self._before = self._decode(self._start, self._read)

    def push(self, token_id: int) -> None:
        """Add one token."""
        self._ids.append(token_id)
        decoded = self._decode(self._start, len(self._ids))
        whole = decoded.rstrip("\ufffd")
        self.text = self._settled + whole[len(self._before) :]
        if len(whole) == len(decoded) > len(self._before):
            self._settled = self.text
            self._start, self._read = self._read, len(self._ids)
            self._before = self._decode(self._start, self._read)

    def flush(self) -> None:
        """Add an incomplete last character to the text: no more tokens will come."""
        self.text = self._settled + self._decode(self._start, len(self._ids))[len(self._before) :]

    def find_stop(self, scanned: int) -> tuple[str, int] | None:
        """Look for a stop string or pattern; return it and the length of the text to keep.

        As in SGLang, a stop string is cut off and the text of a pattern is kept. The first `scanned`
        characters were searched before.
        """
        begin = max(0, scanned - self._longest_stop + 1)
        found = [(at, stop) for stop in self._stops if (at := self.text.find(stop, begin)) >= 0]
        if found:
            at, stop = min(found)
            return stop, at
        deadline = time.monotonic() + REGEX_SECONDS
        for pattern, compiled in self._patterns:
            try:
                match = compiled.search(self.text, timeout=max(0.0, deadline - time.monotonic()))
            except TimeoutError as error:
                raise StopRegexTimeout(f"The stop_regex {pattern!r} takes too long to search.") from error
            if match:
                return pattern, len(self.text)
        return None

    def may_be_stopping(self) -> bool:
        """Tell whether the text ends with the beginning of a stop string."""
        return any(
            self.text.endswith(stop[:length]) for stop in self._stops for length in range(1, len(stop))
        )

    def _decode(self, start: int, end: int) -> str:
        return self._tokenizer.decode(self._ids[start:end], skip_special_tokens=self._skip_special)
