"""Which files of a model folder hold its weights."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable
from pathlib import Path

from nbruntime.embedded.models.json_file import read_json
from nbruntime.errors import ModelNotFoundError

_FORMATS = (
    ("*.safetensors", "model.safetensors.index.json"),
    ("*.bin", "pytorch_model.bin.index.json"),
)
"""Patterns of weight files, and the index that names all of them; the first format in a folder counts."""

_OTHER_FILES = ("adapter_model*", "training_args.bin", "optimizer*", "scheduler*", "scaler*")
_SAME_AGAIN = "consolidated*"
"""The same weights once more, under the names of their authors' own code."""


def weight_files(folder: Path) -> list[Path]:
    """List the weight files of a folder, with the index's files that are missing; empty if there are none."""
    for pattern, index in _FORMATS:
        if (folder / index).is_file():
            return [folder / name for name in _indexed(folder / index)]
        if names := choose_weights((path.name for path in folder.glob(pattern)), pattern):
            return [folder / name for name in names]
    return []


def choose_weights(names: Iterable[str], *patterns: str) -> list[str]:
    """Choose one set of weights from the files of a folder: those of the first pattern that finds some.

    Examples
    --------
    >>> choose_weights(["a.safetensors", "adapter_model.safetensors", "a.bin"], "*.safetensors", "*.bin")
    ['a.safetensors']
    """
    files = [name for name in names if not _matches(name, *_OTHER_FILES)]
    for pattern in patterns:
        if found := sorted(fnmatch.filter(files, pattern)):
            return [name for name in found if not _matches(name, _SAME_AGAIN)] or found
    return []


def _matches(name: str, *patterns: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _indexed(index: Path) -> list[str]:
    try:
        return sorted({os.fspath(name) for name in read_json(index)["weight_map"].values()})
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelNotFoundError(
            f"{index.name} cannot be read ({error})",
            where=str(index),
            hint="Fetch the file again.",
        ) from error
