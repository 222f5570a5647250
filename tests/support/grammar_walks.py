"""Random answers that a compiled grammar allows, without a model: byte by byte."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from nbruntime.embedded.sampling.grammar import GrammarCompiler

END = 256
CLOSING = [ord(letter) for letter in '"}]']


def byte_tokenizer() -> Tokenizer:
    """Make a byte-level tokenizer without merges: token ids follow the alphabet's order."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: at for at, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def compiler_for(backend: Any) -> GrammarCompiler:
    """Make a compiler for a tokenizer; the id behind its last token ends an answer."""
    size = backend.get_vocab_size()
    return GrammarCompiler(SimpleNamespace(backend=backend), size + 1, [size])  # type: ignore[arg-type]


@cache
def compiler() -> GrammarCompiler:
    """The compiler of `byte_tokenizer`."""
    return compiler_for(byte_tokenizer())


@cache
def _tokenizer() -> Tokenizer:
    return byte_tokenizer()


def allows(kind: str, text: str, answer: str) -> bool:
    """Whether a grammar allows an answer, and an end after it."""
    return follows(compiler(), _tokenizer(), kind, text, answer)


def follows(made: GrammarCompiler, backend: Any, kind: str, text: str, answer: str) -> bool:
    """Whether a grammar allows an answer as the tokenizer writes it, and an end after it."""
    return follows_ids(made, backend, kind, text, backend.encode(answer, add_special_tokens=False).ids)


def follows_ids(made: GrammarCompiler, backend: Any, kind: str, text: str, ids: list[int]) -> bool:
    """Whether a grammar allows an answer's tokens, and an end after them."""
    matcher = made.compile(kind, text)()
    for token_id in [*ids, backend.get_vocab_size()]:
        logits = torch.zeros(backend.get_vocab_size() + 1)
        matcher.mask(logits)
        if logits[token_id] < 0:
            return False
        matcher.accept(token_id)
    return matcher.finished


def walks(kind: str, text: str, count: int, most: int = 400) -> Iterator[str]:
    """Give the answers of random walks that reach an end in at most so many bytes."""
    grammar = compiler().compile(kind, text)
    for seed in range(count):
        chance = random.Random(seed)
        matcher, ids = grammar(), []
        for _ in range(most):
            logits = torch.zeros(END + 1)
            matcher.mask(logits)
            allowed = (logits == 0).nonzero().flatten().tolist()
            closing = [
                token_id
                for token_id in allowed
                if token_id == END or _tokenizer().id_to_token(token_id) in '"}]'
            ]
            chosen = chance.choice(closing if closing and chance.random() < 0.3 else allowed)
            if chosen == END:
                yield _tokenizer().decode(ids)
                break
            matcher.accept(chosen)
            ids.append(chosen)
