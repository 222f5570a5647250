"""The default model in a folder like those of other tools: whole, but unlike what transformers writes.

Its weights are two files without an index, its special tokens stand in ``tokenizer_config.json`` only, which
also asks for BOS by its class and flag, ``config.json`` names an end token that the model never says, and it
has a token that ends a message.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

END_OF_MESSAGE = 16


def make_odd_folder(source: Path, folder: Path) -> Path:
    """Write the model in `source` anew."""
    config = _read(source / "config.json") | {"eos_token_id": 0}
    _write(folder / "config.json", config)
    tokenizer = _read(source / "tokenizer.json") | {"added_tokens": []}
    flags = _read(source / "tokenizer_config.json") | {
        "tokenizer_class": "LlamaTokenizerFast",
        "add_bos_token": True,
    }
    token = flags["added_tokens_decoder"][str(END_OF_MESSAGE)]
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["<|eom_id|>"] = vocabulary.pop(token["content"])
    token["content"] = "<|eom_id|>"
    _write(folder / "tokenizer.json", tokenizer)
    _write(folder / "tokenizer_config.json", flags)
    with safe_open(source / "model.safetensors", framework="pt") as file:
        names = sorted(file.keys())
        for part in (0, 1):
            own = {name: file.get_tensor(name) for name in names[part::2]}
            save_file(own, folder / f"weights-{part + 1}-of-2.safetensors")
    return folder


def _read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_bytes())
    return value


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
