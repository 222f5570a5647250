"""How SGLang reads the flags of a tokenizer that say which tokens begin and end a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CLASSES_WITH_FLAGS = frozenset(
    f"{name}Tokenizer{fast}" for name in ("Llama", "CodeLlama", "Gemma") for fast in ("", "Fast")
) | {"CohereTokenizerFast"}


def apply_bos_flag(tokenizer: Any, config: Mapping[str, Any]) -> None:
    """Make a tokenizer of transformers begin prompts with BOS where SGLang's does.

    transformers 5 ignores the flag ``add_bos_token`` beside a ``tokenizer.json``. Tokenizers of some classes
    rely on it, with True as its default.

    Parameters
    ----------
    tokenizer
        A fast tokenizer of transformers, changed in place.
    config
        Its ``tokenizer_config.json``.
    """
    if config.get("tokenizer_class") not in _CLASSES_WITH_FLAGS:
        return
    flag = config.get("add_bos_token")
    for name, wanted in (("add_bos_token", flag is None or bool(flag)), ("add_eos_token", False)):
        if getattr(tokenizer, name, wanted) != wanted:
            setattr(tokenizer, name, wanted)
