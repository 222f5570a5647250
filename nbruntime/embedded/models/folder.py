"""Checks whether a folder is a complete Hugging Face model: configuration, weights and tokenizer."""

from __future__ import annotations

import json
import os
from pathlib import Path

from nbruntime.errors import ModelNotFoundError

TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"), ("vocab.txt",))
"""Sets of files, each of which is a whole tokenizer."""

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_LFS_POINTER = b"version https://git-lfs"


def missing_parts(folder: Path) -> list[str]:
    """List what a folder lacks to be a model that transformers can load, in words.

    Only names, sizes and small files are read, so the check is fast.

    Examples
    --------
    >>> import tempfile
    >>> missing_parts(Path(tempfile.mkdtemp()))
    ['config.json', 'the weights (*.safetensors)', 'the tokenizer (tokenizer.json)']
    """
    missing = []
    if not (folder / "config.json").is_file():
        missing.append("config.json")
    missing += _missing_weights(folder)
    if not any(all((folder / name).is_file() for name in files) for files in TOKENIZERS):
        missing.append("the tokenizer (tokenizer.json)")
    return missing


def check_folder(folder: Path) -> None:
    """Raise ModelNotFoundError if parts are missing; its hint names model folders inside the folder."""
    missing = missing_parts(folder)
    if not missing:
        return
    if (folder / "adapter_config.json").is_file():
        raise ModelNotFoundError(
            "The folder holds a LoRA adapter, not a model",
            where=str(folder),
            hint="Give the folder or hub id of its base model.",
        )
    inside = sorted(
        str(found.parent)
        for found in (*folder.glob("*/config.json"), *folder.glob("snapshots/*/config.json"))
    )
    raise ModelNotFoundError(
        f"The model folder lacks {', '.join(missing)}",
        where=str(folder),
        hint=f"Did you mean {' or '.join(inside[:3])}?"
        if inside
        else "Give a folder as save_pretrained or a download from the hub makes it.",
    )


def _missing_weights(folder: Path) -> list[str]:
    for name in _WEIGHTS:
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _unusable(folder, _shards(index))
        if (folder / name).is_file():
            return _unusable(folder, [name])
    return _unusable(folder, [path.name for path in folder.glob("*.safetensors")]) or (
        [] if any(folder.glob("*.safetensors")) else ["the weights (*.safetensors)"]
    )


def _shards(index: Path) -> list[str]:
    try:
        return sorted({os.fspath(name) for name in json.loads(index.read_bytes())["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelNotFoundError(
            f"The index of the weights cannot be read ({error})",
            where=str(index),
            hint="Fetch the file again.",
        ) from error


def _unusable(folder: Path, names: list[str]) -> list[str]:
    """List weight files that are missing or only Git LFS pointers."""
    unusable = []
    for name in names:
        path = folder / name
        if not path.is_file():
            unusable.append(name)
        elif path.stat().st_size < 1024 and path.read_bytes().startswith(_LFS_POINTER):
            unusable.append(f"{name} (only its Git LFS pointer is there: run git lfs pull)")
    return unusable
