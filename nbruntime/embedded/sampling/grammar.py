"""Constrained decoding with llguidance: regular expressions, JSON schemas, EBNF."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from functools import lru_cache

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer, grammar_from
from torch import Tensor

from nbruntime.embedded.text.tokenizer import Tokenizer

_NAMES = {"json_schema": "json", "regex": "regex", "ebnf": "ebnf"}
ANY_OBJECT = "$$ANY$$"
"""SGLang's word for a schema that any JSON object fulfils."""


class GrammarError(Exception):
    """The answer has left its grammar, or the grammar is too complex to follow."""


class GrammarMatcher:
    """Follows one answer through its grammar."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._bits = np.zeros((vocab_size + 31) // 32, dtype=np.int32)

    def mask(self, logits: Tensor) -> None:
        """Set the logits of forbidden next tokens to minus infinity, in place."""
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._check()
        allowed = np.unpackbits(self._bits.view(np.uint8), bitorder="little")[: logits.shape[-1]]
        logits.masked_fill_(torch.from_numpy(allowed) == 0, float("-inf"))

    def accept(self, token_id: int) -> None:
        """Advance by one token."""
        if not self.finished:
            self._matcher.consume_token(token_id)
            self._check()

    @property
    def finished(self) -> bool:
        """Whether the grammar allows no further token."""
        stopped: bool = self._matcher.is_stopped()
        return stopped

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = self._matcher.get_error().partition("\n")[0]  # then follows the parser's state
            raise GrammarError(f"The answer cannot follow its grammar: {reason}")


Grammar = Callable[[], GrammarMatcher]
"""A compiled grammar: makes a matcher at its beginning."""


class GrammarCompiler:
    """Compiles grammars for a model's tokenizer, width of logits and end tokens, and caches them."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos = sorted(eos_token_ids)
        self._lock = threading.Lock()
        self._guidance: LLTokenizer | None = None
        self._compile = lru_cache(maxsize=128)(self._compile_uncached)

    def compile(self, kind: str, text: str) -> Grammar:
        """Compile a grammar of kind ``json_schema``, ``regex`` or ``ebnf``; ValueError if it is invalid."""
        compiled = self._compile(kind, text)
        return lambda: GrammarMatcher(compiled.deep_copy(), self._vocab_size)

    def _compile_uncached(self, kind: str, text: str) -> LLMatcher:
        if kind not in _NAMES:
            raise ValueError(f"{kind} is not served by the embedded server; use json_schema, regex or ebnf.")
        try:
            grammar = _grammar(kind, text)
            problem = LLMatcher.validate_grammar(grammar, self._guidance_tokenizer())
        except (ValueError, RecursionError) as error:
            problem = str(error)
        if problem:
            raise ValueError(f"Failed to compile {_NAMES[kind]} grammar: {problem}")
        return LLMatcher(self._guidance_tokenizer(), grammar, log_level=0)

    def _guidance_tokenizer(self) -> LLTokenizer:
        # Takes half a second, so it is made when the first grammar comes, and once.
        with self._lock:
            if self._guidance is None:
                self._guidance = LLTokenizer(
                    self._tokenizer.backend.to_str(), n_vocab=self._vocab_size, eos_token=self._eos or None
                )
            return self._guidance


def _grammar(kind: str, text: str) -> str:
    """Translate a grammar of SGLang's kinds to llguidance's form."""
    if kind != "json_schema":
        converted: str = grammar_from(kind, text)
        return converted
    schema = {"type": "object"} if text == ANY_OBJECT else json.loads(text)
    # Flexible white space lets a small model write spaces for ever.
    compact: str = LLMatcher.grammar_from_json_schema(
        schema, defaults={"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    )
    return compact
