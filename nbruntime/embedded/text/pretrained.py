"""Loads the tokenizer of a model folder as SGLang does: by its class, with special tokens and flags."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

from nbruntime.errors import ModelNotFoundError
from nbruntime.protocol.tokenizer_flags import apply_bos_flag

logger = logging.getLogger(__name__)

_SENTENCEPIECE = ("sentencepiece", "google.protobuf")
"""What transformers needs to convert a ``tokenizer.model``."""


def load_pretrained(folder: Path) -> Any:
    """Load a fast tokenizer of transformers.

    Raises
    ------
    ModelNotFoundError
        If the folder has none, or its files cannot be read.
    """
    # Importing transformers takes seconds; errors found earlier should not wait for it.
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    try:
        tokenizer = _read(folder)
        if getattr(tokenizer, "backend_tokenizer", None) is not None:
            apply_bos_flag(tokenizer, get_tokenizer_config(folder, local_files_only=True))
            return tokenizer
    except Exception as error:  # tokenizers raises bare ones
        if (folder / "tokenizer.model").exists() and not all(map(_is_installed, _SENTENCEPIECE)):
            raise ModelNotFoundError(
                "A tokenizer.model cannot be read without the packages sentencepiece and protobuf",
                where=str(folder),
                hint="Install them with pip, or give a folder with a tokenizer.json.",
            ) from error
        reason = str(error).strip().partition("\n")[0]
        raise ModelNotFoundError(
            f"The tokenizer in {folder} cannot be read: {reason}",
            hint="Fetch its files again, or give a folder with a tokenizer.json.",
        ) from error
    raise ModelNotFoundError(
        f"{folder} has no tokenizer.json, and its tokenizer has no fast form",
        hint="Save one with AutoTokenizer.from_pretrained(...).save_pretrained(folder)",
    )


def _read(folder: Path) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    file = folder / "tokenizer.json"
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        if not file.exists():
            raise
        logger.info("the tokenizer is read from tokenizer.json alone: %s", str(error).partition("\n")[0])
        tokenizer = None
    if not file.exists():
        return tokenizer
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    if type(tokenizer) is not PreTrainedTokenizerFast:
        _restore_splitting(tokenizer.backend_tokenizer, FastTokenizer.from_file(str(file)))
    return tokenizer


def _restore_splitting(backend: Any, written: Any) -> None:
    """Split and join words as ``tokenizer.json`` says: some classes of transformers do it their own way."""
    kinds = [type(each.pre_tokenizer) for each in (backend, written)]
    if type(None) not in kinds and kinds[0] is not kinds[1]:
        backend.pre_tokenizer, backend.decoder = written.pre_tokenizer, written.decoder


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of a package around it
        return False
