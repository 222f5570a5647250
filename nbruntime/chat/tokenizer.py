"""Load the tokenizer of a server's model in this process."""

from __future__ import annotations

import os
from typing import Any

from nbruntime.protocol.tokenizer_flags import apply_bos_flag

HUB_SECONDS = 3.0
"""Timeout in seconds of the check that the hub has the model."""


def load_tokenizer(path: str) -> Any:
    """Load a transformers tokenizer from a folder, the cache, or the Hugging Face hub, as SGLang does.

    The path comes from a server, so code that comes with the tokenizer is not run.

    Raises
    ------
    OSError, ValueError
        If it cannot be loaded.
    """
    if os.path.isabs(path) and not os.path.isdir(path):
        raise FileNotFoundError("the folder is not on this machine")
    from transformers import AutoTokenizer
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):
        if os.path.isdir(path):
            raise
        _ask_the_hub(path)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    apply_bos_flag(tokenizer, get_tokenizer_config(path, local_files_only=True))
    return tokenizer


def _ask_the_hub(path: str) -> None:
    """Check once that the hub has the model: transformers would retry an unreachable hub for a minute."""
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(path, timeout=HUB_SECONDS)
    except Exception as error:  # of its HTTP library, which differs between versions
        raise OSError(f"it is not in the cache, and the hub cannot provide it: {error}") from error
