"""GGUF to a Hugging Face folder: Llama models with a GPT-2 style BPE tokenizer.

Only numpy, `gguf`, `tokenizers` and `safetensors` are used, never torch: a 135 M parameter model takes seconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nbruntime.errors import ModelNotFoundError

if TYPE_CHECKING:
    from gguf import GGUFReader
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

CONVERTER_VERSION = 1
"""Raised when the folders written before are no longer good enough."""

_LAYER_TENSORS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_OTHER_TENSORS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}

# token_type of `tokenizer.ggml.token_type`: control tokens are special, user-defined ones are not.
_CONTROL, _USER_DEFINED = 3, 4


def convert_gguf(
    source: Path, folder: Path, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Write a GGUF model as a Hugging Face folder with float16 weights.

    Parameters
    ----------
    source : Path
        The GGUF file; its weights may be quantised, they are written dequantised.
    folder : Path
        An existing empty folder for `config.json`, `generation_config.json`, `model.safetensors`, `tokenizer.json`,
        `tokenizer_config.json` and `special_tokens_map.json`.
    progress : callable
        Called with the number of tensors done and their total.

    Raises
    ------
    ModelNotFoundError
        When the file is no GGUF, or of an architecture or tokenizer this converter does not know.

    Examples
    --------
    >>> convert_gguf(Path("SmolLM2-135M-Instruct.Q4_1.gguf"), Path("SmolLM2-135M-Instruct"))  # doctest: +SKIP
    """
    from gguf import GGUFReader
    from safetensors.numpy import save_file

    try:
        reader = GGUFReader(source)
    except (ValueError, IndexError, KeyError) as error:
        raise ModelNotFoundError(
            f"{source} is not a readable GGUF file ({error}). Fetch it again, or pass a Hugging Face folder."
        ) from error
    architecture = _field(reader, "general.architecture")
    if architecture != "llama":
        raise ModelNotFoundError(
            f"{source} holds a model of architecture {architecture!r}; from GGUF only 'llama' can be converted. "
            "Pass the model's Hugging Face folder or hub id instead."
        )
    tokenizer = _tokenizer(reader, source)
    config = _config(reader)
    tensors = _tensors(reader, config, progress)

    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", _generation_config(config))
    special = _special_tokens(reader)
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(reader, tokenizer, config, special))
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _field(reader: GGUFReader, key: str, default: Any = None) -> Any:
    field = reader.get_field(key)
    return default if field is None else field.contents()


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# --- weights ----------------------------------------------------------------------------------------------------


def _tensors(
    reader: GGUFReader, config: dict[str, Any], progress: Callable[[int, int], None]
) -> dict[str, NDArray[np.float16]]:
    from gguf.quants import dequantize

    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    tensors: dict[str, NDArray[np.float16]] = {}
    for done, tensor in enumerate(reader.tensors, start=1):
        kind, name = _tensor_name(tensor.name)
        if name is not None:
            weights = dequantize(tensor.data, tensor.tensor_type)
            if kind in heads:
                weights = _restore_rows(weights, heads[kind])
            tensors[name] = np.ascontiguousarray(weights, dtype=np.float16)
        progress(done, len(reader.tensors))
    return tensors


def _tensor_name(name: str) -> tuple[str, str | None]:
    """The kind of a GGUF tensor and its name in transformers, None for one that transformers computes itself."""
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if layer and (target := _LAYER_TENSORS.get(layer[2])):
        return layer[2], f"model.layers.{layer[1]}.{target}.{layer[3]}"
    if target := _OTHER_TENSORS.get(name.removesuffix(".weight")):
        return name.removesuffix(".weight"), f"{target}.weight"
    if name == "rope_freqs.weight":
        return "rope_freqs", None
    raise ModelNotFoundError(
        f"The GGUF file holds a tensor {name!r} that a Llama model in transformers does not have. "
        "Pass the model's Hugging Face folder or hub id instead."
    )


def _restore_rows(weights: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo GGUF's order of the rows of q and k: pairs side by side there, two halves of a head in transformers."""
    shape = weights.shape
    return weights.reshape(heads, shape[0] // heads // 2, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


# --- configuration ----------------------------------------------------------------------------------------------


def _config(reader: GGUFReader) -> dict[str, Any]:
    heads = _field(reader, "llama.attention.head_count")
    hidden = _field(reader, "llama.embedding_length")
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": _field(reader, "tokenizer.ggml.bos_token_id"),
        "dtype": "float16",
        "eos_token_id": _field(reader, "tokenizer.ggml.eos_token_id"),
        "head_dim": _field(reader, "llama.rope.dimension_count", hidden // heads),
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": _field(reader, "llama.feed_forward_length"),
        "max_position_embeddings": _field(reader, "llama.context_length"),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": _field(reader, "llama.block_count"),
        "num_key_value_heads": _field(reader, "llama.attention.head_count_kv", heads),
        "pad_token_id": _field(reader, "tokenizer.ggml.padding_token_id"),
        "rms_norm_eps": _shortest(_field(reader, "llama.attention.layer_norm_rms_epsilon")),
        "rope_scaling": None,
        "rope_theta": _shortest(_field(reader, "llama.rope.freq_base", 10000.0)),
        "tie_word_embeddings": not any(tensor.name == "output.weight" for tensor in reader.tensors),
        "use_cache": True,
        "vocab_size": len(reader.get_field("tokenizer.ggml.tokens").data),
    }


def _shortest(value: float) -> float:
    """The number that was meant: GGUF keeps 1e-5 as the float32 9.99999974e-06."""
    return float(str(np.float32(value)))


def _generation_config(config: dict[str, Any]) -> dict[str, Any]:
    keys = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {key: config[key] for key in keys if config[key] is not None}


# --- tokenizer --------------------------------------------------------------------------------------------------


def _tokenizer(reader: GGUFReader, source: Path) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    model = _field(reader, "tokenizer.ggml.model")
    kind = _field(reader, "tokenizer.ggml.pre")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=bool(_field(reader, "tokenizer.ggml.add_space_prefix", False)))
    splitters = {
        "gpt-2": byte_level,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level]),
    }
    if model != "gpt2" or kind not in splitters:
        raise ModelNotFoundError(
            f"{source} holds a tokenizer of kind {model!r}/{kind!r}; from GGUF only gpt2/{'|'.join(splitters)} can be "
            "converted. Pass the model's Hugging Face folder or hub id instead."
        )
    tokens = _field(reader, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in _field(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = splitters[kind]
    tokenizer.decoder = decoders.ByteLevel()
    types = _field(reader, "tokenizer.ggml.token_type")
    tokenizer.add_tokens(
        [
            AddedToken(token, normalized=False, special=type_ == _CONTROL)
            for token, type_ in zip(tokens, types, strict=True)
            if type_ in (_CONTROL, _USER_DEFINED)
        ]
    )
    return tokenizer


def _special_tokens(reader: GGUFReader) -> dict[str, Any]:
    tokens = _field(reader, "tokenizer.ggml.tokens")
    roles = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    ids = {role: _field(reader, f"tokenizer.ggml.{key}_token_id") for role, key in roles.items()}
    return {role: tokens[index] for role, index in ids.items() if index is not None}


def _tokenizer_config(
    reader: GGUFReader, tokenizer: Tokenizer, config: dict[str, Any], special: dict[str, Any]
) -> dict[str, Any]:
    added = {
        str(index): {
            "content": token.content,
            "lstrip": token.lstrip,
            "normalized": token.normalized,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "special": token.special,
        }
        for index, token in sorted(tokenizer.get_added_tokens_decoder().items())
    }
    settings: dict[str, Any] = {
        "add_prefix_space": bool(_field(reader, "tokenizer.ggml.add_space_prefix", False)),
        "added_tokens_decoder": added,
        **special,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    if template := _field(reader, "tokenizer.chat_template"):
        settings["chat_template"] = template
    return settings
