"""The tokenizer of a server's model, loaded here."""

from __future__ import annotations

import os
from typing import Any

HUB_SECONDS = 3.0
"""How long the hub may take to say that it has a tokenizer, before it is downloaded."""


def load_tokenizer(path: str) -> Any:
    """Load a tokenizer of transformers, one that needs no code of its own.

    A server says where its tokenizer is, and a server is not trusted to have its code run here.

    Parameters
    ----------
    path : str
        Folder, or id on the Hugging Face hub; the cache is tried before the network.

    Returns
    -------
    transformers.PreTrainedTokenizerBase

    Raises
    ------
    OSError, ValueError
        If there is no such tokenizer.
    """
    if os.path.isabs(path) and not os.path.isdir(path):
        raise FileNotFoundError("the folder is not on this machine")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):
        if os.path.isdir(path):
            raise
    _ask_the_hub(path)
    return AutoTokenizer.from_pretrained(path, trust_remote_code=False)


def _ask_the_hub(path: str) -> None:
    """Ask once whether there is such a model; a hub that is out of reach, transformers asks for a minute."""
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(path, timeout=HUB_SECONDS)
    except Exception as error:  # its HTTP library's, and which one that is changes
        raise OSError(f"it is not in the cache, and not to be had from the hub: {error}") from error
