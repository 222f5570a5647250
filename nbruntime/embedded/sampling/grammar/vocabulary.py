"""The bytes of a tokenizer's tokens, for llguidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llguidance import LLTokenizer


def guidance_tokenizer(backend: Any, vocab_size: int, eos_token_ids: Sequence[int]) -> LLTokenizer:
    """Give llguidance the vocabulary of a tokenizer, for logits of a width."""
    return LLTokenizer(backend.to_str(), n_vocab=vocab_size, eos_token=list(eos_token_ids) or None)
