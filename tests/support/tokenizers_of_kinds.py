"""Small tokenizers of every kind that models have, trained on a few sentences."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SENTENCES = ["the quick brown fox jumps over the lazy dog", "a quick fox", "the dog and the fox"]
_TRAINING = [*SENTENCES, '{"name": "fox", "age": 3}'] * 5
_SPECIAL = ["<unk>", "<s>", "</s>"]
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _bpe(decoder: Any, before: Any = None, normalizer: Any = None, *, fallback: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=fallback))
    tokenizer.decoder = decoder
    if before is not None:
        tokenizer.pre_tokenizer = before
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=_SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(_TRAINING, trainer)
    if fallback:
        tokenizer.add_tokens(_BYTES)
    return tokenizer


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=80, special_tokens=_SPECIAL, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(_TRAINING, trainer)
    return tokenizer


def _word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=_SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(_TRAINING, trainer)
    return tokenizer


def _llama_2() -> Tokenizer:
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    written = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    return _bpe(decoders.Sequence(steps), None, normalizers.Sequence(written), fallback=True)


def _gemma() -> Tokenizer:
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return _bpe(decoders.Sequence(steps), None, normalizers.Replace(" ", "▁"), fallback=True)


_MAKERS: dict[str, Callable[[], Tokenizer]] = {
    "metaspace": lambda: _bpe(decoders.Metaspace(), pre_tokenizers.Metaspace()),
    "metaspace in a sequence": lambda: _bpe(
        decoders.Sequence([decoders.Metaspace()]), pre_tokenizers.Metaspace()
    ),
    "byte fallback": lambda: _bpe(
        decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]),
        pre_tokenizers.Metaspace(),
        fallback=True,
    ),
    "as Llama 2": _llama_2,
    "as Gemma": _gemma,
    "byte level": lambda: _bpe(decoders.ByteLevel(), pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "byte level in a sequence": lambda: _bpe(
        decoders.Sequence([decoders.ByteLevel()]), pre_tokenizers.ByteLevel(add_prefix_space=False)
    ),
    "unigram": _unigram,
    "word piece": _word_piece,
    "words": lambda: _bpe(None, pre_tokenizers.Whitespace()),
}

KINDS = {name: cache(make) for name, make in _MAKERS.items()}
"""Makers of the tokenizers; each is made once."""
