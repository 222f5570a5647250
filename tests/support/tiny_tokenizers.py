"""Folders of tiny tokenizers: a token for each letter, a few longer and special ones."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing

SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>", "<|eom_id|>"]
IDS = {
    token: number for number, token in enumerate([*SPECIAL, "Ġ", *string.ascii_lowercase, "th", "the", "Ã"])
}


def tokenizer_folder(folder: Path, *, added: list[str] = SPECIAL, bos: bool = False, **config: Any) -> Path:
    """Write a tokenizer.

    Parameters
    ----------
    added : list of str
        Tokens that ``tokenizer.json`` marks as special.
    bos : bool
        Whether its post-processor begins a text with ``<s>``.
    config : dict
        Contents of ``tokenizer_config.json``, which is left out if this is empty.
    """
    backend = Tokenizer(BPE(IDS, [("t", "h"), ("th", "e")], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(added)
    if bos:
        backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", IDS["<s>"])])
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def added_token(content: str) -> dict[str, Any]:
    """Describe a special token as ``tokenizer_config.json`` does."""
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": content, "special": True, **flags}
