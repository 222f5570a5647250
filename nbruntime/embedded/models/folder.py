"""Checks whether a folder is a complete Hugging Face model: configuration, weights and tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nbruntime.embedded.models.json_file import read_json
from nbruntime.embedded.models.quantisation import refuse_quantised
from nbruntime.embedded.models.weights import weight_files
from nbruntime.errors import ModelNotFoundError

TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"), ("vocab.txt",))
"""Sets of files, each of which is a whole tokenizer."""

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
    weights = weight_files(folder)
    missing += _unusable(weights) if weights else ["the weights (*.safetensors)"]
    whole = [names for names in TOKENIZERS if all((folder / name).is_file() for name in names)]
    missing += _unusable(folder / name for name in whole[0]) if whole else ["the tokenizer (tokenizer.json)"]
    return missing


def check_folder(folder: Path) -> None:
    """Raise LaunchError for a quantised model, and ModelNotFoundError if parts are missing.

    Its hint names the base model of an adapter, or models inside the folder.
    """
    refuse_quantised(folder)
    missing = missing_parts(folder)
    if not missing:
        return
    if (folder / "adapter_config.json").is_file():
        base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
        raise ModelNotFoundError(
            f"The folder holds a LoRA adapter{f' of {base}' if base else ''}, not a model",
            where=str(folder),
            hint="Give its base model, or save the two merged into one (peft's merge_and_unload).",
        )
    inside = sorted(
        str(found.parent)
        for found in (*folder.glob("*/config.json"), *folder.glob("snapshots/*/config.json"))
    ) or sorted(str(path) for path in folder.glob("*.gguf"))
    raise ModelNotFoundError(
        f"The model folder lacks {', '.join(missing)}",
        where=str(folder),
        hint=f"Did you mean {' or '.join(inside[:3])}?"
        if inside
        else "Give a folder as save_pretrained or a download from the hub makes it.",
    )


def _unusable(files: Iterable[Path]) -> list[str]:
    """List files that are missing or only Git LFS pointers."""
    unusable = []
    for path in files:
        if not path.is_file():
            unusable.append(path.name)
        elif path.stat().st_size < 1024 and path.read_bytes().startswith(_LFS_POINTER):
            unusable.append(f"{path.name} (only its Git LFS pointer is there: run git lfs pull)")
    return unusable
