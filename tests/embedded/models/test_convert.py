"""Conversion of GGUF files: weights, configuration and tokenizer are those that transformers reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from support.tiny_models import HIDDEN, TEMPLATE, tiny_gguf
from tokenizers import Tokenizer

from nbruntime.embedded.models import resolve_model
from nbruntime.embedded.models.cache import cache_folder
from nbruntime.errors import ModelNotFoundError


def test_converted_weights_are_the_dequantised_ones_in_transformers_order(tiny: Any) -> None:
    _, folder, weights = tiny
    converted = load_file(folder / "model.safetensors")
    assert converted.keys() == weights.keys()
    for name, value in weights.items():
        assert torch.equal(converted[name], torch.from_numpy(value).bfloat16()), name


def test_converted_model_is_the_one_that_transformers_reads_from_gguf(tiny: Any) -> None:
    """The independent check: transformers has a GGUF reader of its own, slow but its own."""
    from transformers import AutoConfig, LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    source, folder, _ = tiny
    config = AutoConfig.from_pretrained(folder)
    theirs = load_gguf_checkpoint(str(source), return_tensors=True, model_to_load=LlamaForCausalLM(config))
    ours = load_file(folder / "model.safetensors")
    assert theirs["tensors"].keys() - {"lm_head.weight"} == ours.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs["tensors"][name].bfloat16()), name
    settings = config.to_dict() | {"rope_theta": config.rope_parameters["rope_theta"]}
    common = sorted(theirs["config"].keys() & settings.keys())
    for key in common:
        expected = theirs["config"][key]
        assert settings[key] == (pytest.approx(expected) if isinstance(expected, float) else expected), key
    print(f"{len(ours)} tensors are the same, and {', '.join(common)}")


def test_converted_tokenizer_splits_digits_and_keeps_special_tokens_whole(tiny: Any) -> None:
    from transformers import AutoTokenizer

    _, folder, _ = tiny
    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert plain.encode(" the 12<|im_end|>").tokens == ["Ġthe", "Ġ", "1", "2", "<|im_end|>"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer(" the 12<|im_end|>").input_ids == plain.encode(" the 12<|im_end|>").ids
    assert [tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id] == [0, 1, 2]
    assert tokenizer.pad_token_id == 2
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.model_max_length == 128
    assert tokenizer.decode([2, *plain.encode("hi").ids], skip_special_tokens=True) == "hi"


@given(text=st.text())
def test_converted_tokenizer_gives_every_text_back(tiny: Any, text: str) -> None:
    tokenizer = Tokenizer.from_file(str(tiny[1] / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"arch": "gemma3"}, "gemma3"),
        ({"tokenizer": "llama"}, "'llama'"),
        ({"pre": "llama-bpe"}, "llama-bpe"),
        ({"add_bos_token": True}, "before every text"),
        ({"rope_scaling_type": gguf.RopeScalingType.YARN}, "scaled rope"),
        ({"tensors": {"blk.0.ffn_gate_inp.weight": np.zeros((2, HIDDEN), np.float32)}}, "ffn_gate_inp"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_gguf_that_cannot_be_converted_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    tiny_gguf(tmp_path / "other.gguf", **change)
    with pytest.raises(ModelNotFoundError, match=re.escape(named)) as raised:
        resolve_model(str(tmp_path / "other.gguf"))
    assert str(tmp_path / "other.gguf") in str(raised.value)
    assert not [path for path in cache_folder().iterdir() if path.is_dir()]


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all" * 9])
def test_file_that_is_not_gguf_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.gguf").write_bytes(content)
    with pytest.raises(ModelNotFoundError, match="cannot be read as GGUF"):
        resolve_model(str(tmp_path / "broken.gguf"))
