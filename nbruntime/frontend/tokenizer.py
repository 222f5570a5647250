"""The tokenizer of a server's model, loaded here."""

from __future__ import annotations

import os
from typing import Any


def load_tokenizer(path: str) -> Any:
    """Load a tokenizer of transformers.

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
        return AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError):
        if os.path.isdir(path):
            raise
    return AutoTokenizer.from_pretrained(path)
