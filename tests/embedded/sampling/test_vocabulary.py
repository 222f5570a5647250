"""The bytes of tokens, for every kind of tokenizer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.grammar_walks import byte_tokenizer, compiler_for, follows_ids
from support.tokenizers_of_kinds import KINDS, SENTENCES

from nbruntime.embedded.sampling.grammar import GrammarCompiler
from nbruntime.embedded.sampling.grammar.vocabulary import guidance_tokenizer, token_bytes


@pytest.mark.parametrize("name", KINDS)
def test_tokens_behind_another_have_the_bytes_that_they_decode_to(name: str) -> None:
    backend = KINDS[name]()
    tokens = token_bytes(backend, backend.get_vocab_size() + 3)
    assert tokens[-3:] == [b""] * 3
    for sentence in SENTENCES:
        ids = backend.encode(sentence, add_special_tokens=False).ids
        text = b"".join(tokens[token_id] for token_id in ids).decode()
        assert text.strip() == backend.decode(ids).strip()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("regex", "( ?the| quick| fox)+"),
        ("ebnf", 'root ::= " "? "the quick" word*\nword ::= " " [a-z]+'),
        ("ebnf", 'root ::= " "? "the" next\nnext ::= " quick" next | " fox"'),
    ],
)
def test_a_grammar_with_spaces_is_followed(name: str, kind: str, text: str) -> None:
    backend = KINDS[name]()
    ids = backend.encode("the quick fox", add_special_tokens=False).ids
    assert follows_ids(compiler_for(backend), backend, kind, text, ids)


def test_tokens_of_a_byte_are_that_byte() -> None:
    backend = KINDS["byte fallback"]()
    tokens = token_bytes(backend, backend.get_vocab_size())
    assert tokens[backend.token_to_id("<0xE2>")] == b"\xe2"
    assert sorted(token_bytes(byte_tokenizer(), 256)) == [bytes([byte]) for byte in range(256)]


def test_special_tokens_are_no_text_of_a_grammar() -> None:
    backend = KINDS["metaspace"]()
    made = compiler_for(backend)
    assert not follows_ids(made, backend, "regex", "<s>|the", [backend.token_to_id("<s>")])


def test_an_end_token_beyond_the_vocabulary_does_not_matter() -> None:
    backend = byte_tokenizer()
    made: Any = guidance_tokenizer(backend, 257, [256, 100_000])
    assert made.eos_tokens == [256]


def test_an_end_token_is_no_text_of_a_grammar() -> None:
    backend = byte_tokenizer()
    end = backend.token_to_id("x")
    made = GrammarCompiler(SimpleNamespace(backend=backend), 256, [end])  # type: ignore[arg-type]
    matcher = made.compile("regex", "[w-z]{2}")()
    for expected in (["w", "y", "z"], ["w", "y", "z"], ["x"]):
        logits = torch.zeros(256)
        matcher.mask(logits)
        assert [backend.id_to_token(each) for each in (logits == 0).nonzero().flatten().tolist()] == expected
        matcher.accept(backend.token_to_id(expected[0]))
