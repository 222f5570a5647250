"""Small random models of transformers, written as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "eos_token_id": 2,
    "bos_token_id": 1,
    "pad_token_id": 0,
}


def make_model(folder: Path, config_name: str, settings: dict[str, Any]) -> Path:
    torch.manual_seed(0)
    config = getattr(transformers, config_name)(**settings)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder
