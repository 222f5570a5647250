"""Compiles grammars for llguidance: regular expressions, JSON schemas, EBNF."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable
from functools import lru_cache

from llguidance import LLMatcher, LLTokenizer

from nbruntime.embedded.sampling.grammar.ebnf import read_ebnf
from nbruntime.embedded.sampling.grammar.expressions import as_regex
from nbruntime.embedded.sampling.grammar.json_schema import read_schema
from nbruntime.embedded.sampling.grammar.matcher import Grammar, GrammarMatcher
from nbruntime.embedded.sampling.grammar.patterns import read_pattern
from nbruntime.embedded.sampling.grammar.vocabulary import guidance_tokenizer
from nbruntime.embedded.text.tokenizer import Tokenizer

_OPTIONS = '%llguidance {"no_forcing": true}'
"""The model chooses among all tokens that the grammar allows, as with SGLang, not only the usual ones."""

_PLACE_IN_LARK = re.compile(r"^(at )?\d+\(\d+\): (failed to compile JSON schema: )?")

ANY_OBJECT = "$$ANY$$"
"""SGLang's word for a schema that any JSON object fulfils."""


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
        if kind not in _FORMS:
            raise ValueError(f"{kind} is not served by the embedded server; use json_schema, regex or ebnf.")
        name, write = _FORMS[kind]
        try:
            grammar = LLMatcher.grammar_from_lark(f"{_OPTIONS}\n{write(text)}\n")
            problem = LLMatcher.validate_grammar(grammar, self._guidance_tokenizer())
        except ValueError as error:
            problem = str(error)
        except RecursionError:
            problem = "It is nested too deeply."
        if problem:
            # Without the Lark that was made for llguidance, and the place in it.
            reason = _PLACE_IN_LARK.sub("", problem.partition("\n")[0])
            raise ValueError(f"Failed to compile {name} grammar: {reason}")
        return LLMatcher(self._guidance_tokenizer(), grammar, log_level=0)

    def _guidance_tokenizer(self) -> LLTokenizer:
        # Takes half a second, so it is made when the first grammar comes, and once.
        with self._lock:
            if self._guidance is None:
                self._guidance = guidance_tokenizer(self._tokenizer.backend, self._vocab_size, self._eos)
            return self._guidance


def _of_schema(text: str) -> str:
    schema = read_schema('{"type": "object"}' if text == ANY_OBJECT else text)
    # Flexible white space lets a small model write spaces for ever.
    form = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return f"start: %json {json.dumps(schema | {'x-guidance': form})}"


def _of_regex(text: str) -> str:
    return f"start: /(?:{as_regex(read_pattern(text).body)})/"


_FORMS: dict[str, tuple[str, Callable[[str], str]]] = {
    "json_schema": ("json", _of_schema),
    "regex": ("regex", _of_regex),
    "ebnf": ("ebnf", read_ebnf),
}
"""By kind: SGLang's name of it, and what writes it in llguidance's Lark."""
