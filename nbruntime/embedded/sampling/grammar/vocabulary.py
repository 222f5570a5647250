"""The tokens of a tokenizer as bytes, for llguidance."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from llguidance import LLTokenizer, TokenizerWrapper

_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")


def guidance_tokenizer(backend: Any, vocab_size: int, eos_token_ids: Iterable[int]) -> LLTokenizer:
    """Give llguidance the vocabulary of a tokenizer of `tokenizers`, for logits of a width."""
    ends = [token_id for token_id in eos_token_ids if token_id < vocab_size]
    vocabulary = _Vocabulary(backend, vocab_size, ends)
    return LLTokenizer(TokenizerWrapper(vocabulary), eos_token=ends or None)


class _Vocabulary:
    """What llguidance asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, backend: Any, vocab_size: int, ends: list[int]) -> None:
        self._backend = backend
        self.eos_token_id = ends[0] if ends else 0
        self.tokens = token_bytes(backend, vocab_size)
        added = backend.get_added_tokens_decoder().items()
        special = {token_id for token_id, token in added if token.special and token_id < vocab_size}
        # What ends an answer is no text within it, whether or not the tokenizer calls it special.
        self.special_token_ids = sorted(special | {*ends})

    def __call__(self, text: str) -> list[int]:
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids


def token_bytes(backend: Any, vocab_size: int) -> list[bytes]:
    """Give the bytes that each token adds to a text; none for ids without a token."""
    tokens = [b""] * vocab_size
    kinds = _decoders(backend.decoder)
    names = {token_id: name for name, token_id in backend.get_vocab().items() if token_id < vocab_size}
    others = []
    for token_id, name in names.items():
        if b"ByteLevel" in kinds:
            tokens[token_id] = b"".join(_BYTE_OF.get(letter, letter.encode()) for letter in name)
        elif b"ByteFallback" in kinds and (found := _BYTE.fullmatch(name)):
            tokens[token_id] = bytes.fromhex(found[1])
        else:
            others.append(token_id)
    # A decoder may write a token without its space at the beginning of a text, so another one goes before.
    first = next((other for other in others if backend.decode([other]).isalnum()), None)
    before = [] if first is None else [first]
    prefix = backend.decode(before)
    texts = backend.decode_batch([[*before, other] for other in others], skip_special_tokens=False)
    for token_id, text in zip(others, texts, strict=True):
        tokens[token_id] = text.removeprefix(prefix).encode()
    return tokens


def _decoders(decoder: Any) -> list[bytes]:
    """Name the kinds of a decoder and its parts; its state is their JSON."""
    return [] if decoder is None else re.findall(rb'"type":\s*"(\w+)"', decoder.__getstate__())


def _byte_letters() -> Iterator[tuple[str, int]]:
    """Give the letters that byte-level tokenizers write bytes as."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    yield from ((chr(byte), byte) for byte in printed)
    others = sorted({*range(0x100)} - {*printed})
    yield from ((chr(0x100 + number), byte) for number, byte in enumerate(others))


_BYTE_OF = {letter: bytes([byte]) for letter, byte in _byte_letters()}
