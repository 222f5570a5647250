"""Converts GGUF files of Llama models with a GPT-2 style BPE tokenizer to Hugging Face folders.

Needs numpy, `gguf`, `tokenizers` and `safetensors`, not torch; 135 M parameters take seconds.
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

_LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OTHER_TENSORS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}

# Values of `tokenizer.ggml.token_type`. Both are added tokens; only control tokens are special.
_CONTROL, _USER_DEFINED = 3, 4


def convert_gguf(
    source: Path, folder: Path, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Write a GGUF model as a Hugging Face folder with bfloat16 weights.

    Parameters
    ----------
    source : Path
        The GGUF file; quantised weights are dequantised.
    folder : Path
        An existing empty folder.
    progress : callable
        Called with the number of tensors done and their total.

    Raises
    ------
    ModelNotFoundError
        If the file is not GGUF, or its architecture or tokenizer is not supported.

    Examples
    --------
    >>> convert_gguf(Path("SmolLM2-135M-Instruct.Q4_1.gguf"), Path("SmolLM2-135M-Instruct"))  # doctest: +SKIP
    """
    from gguf import GGUFReader
    from safetensors import TensorSpec, serialize_file

    try:
        reader = GGUFReader(source)
    except (ValueError, LookupError) as error:
        raise ModelNotFoundError(
            "The file cannot be read as GGUF",
            cause=str(error),
            where=str(source),
            hint="Fetch it again, or give a Hugging Face folder.",
        ) from error
    architecture = _field(reader, "general.architecture")
    if architecture != "llama":
        raise _unknown(f"a model of architecture {architecture!r}", source)
    if _field(reader, "llama.rope.scaling.type", "none") != "none":
        raise _unknown("a model with scaled rope", source)
    tokenizer = _tokenizer(reader, source)
    config = _config(reader)
    special = _special_tokens(reader)
    tensors = _tensors(reader, config, source, progress)

    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", _generation_config(config))
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(reader, tokenizer, config, special))
    tokenizer.save(str(folder / "tokenizer.json"))
    weights = folder / "model.safetensors"
    stored = {
        name: TensorSpec(
            dtype="bfloat16", shape=list(bits.shape), data_ptr=bits.ctypes.data, data_len=bits.nbytes
        )
        for name, bits in tensors.items()
    }
    serialize_file(stored, weights, metadata={"format": "pt"})
    weights.chmod((folder / "config.json").stat().st_mode)  # safetensors makes it readable by the owner only


def _field(reader: GGUFReader, key: str, default: Any = None) -> Any:
    field = reader.get_field(key)
    return default if field is None else field.contents()


def _unknown(what: str, source: Path) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"The GGUF file holds {what}, which cannot be converted",
        where=str(source),
        hint="Give the model's Hugging Face folder or its id on the hub.",
    )


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _tensors(
    reader: GGUFReader, config: dict[str, Any], source: Path, progress: Callable[[int, int], None]
) -> dict[str, NDArray[np.uint16]]:
    """Read all weights under their names in transformers, as bits of bfloat16, which numpy has not."""
    from gguf.quants import dequantize

    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    tensors: dict[str, NDArray[np.uint16]] = {}
    for done, tensor in enumerate(reader.tensors, start=1):
        name = _tensor_name(tensor.name)
        if name is None:
            raise _unknown(f"a tensor {tensor.name!r}", source)
        weights = dequantize(tensor.data, tensor.tensor_type)
        projection = name.split(".")[-2]
        if projection in heads:
            weights = _restore_rows(weights, heads[projection])
        tensors[name] = _bfloat16_bits(weights)
        progress(done, len(reader.tensors))
    return tensors


def _bfloat16_bits(weights: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to the nearest bfloat16, ties to even: the upper half of a float32."""
    bits = np.ascontiguousarray(weights, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _tensor_name(name: str) -> str | None:
    """Translate the name of a GGUF tensor to transformers'; None if a plain Llama has no such tensor."""
    if layer := re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name):
        target = _LAYER_TENSORS.get(layer[2])
        return target and f"model.layers.{layer[1]}.{target}.{layer[3]}"
    target = _OTHER_TENSORS.get(name.removesuffix(".weight"))
    return target and f"{target}.weight"


def _restore_rows(weights: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo GGUF's order of the rows of q and k: rope's pairs are adjacent there, half a head apart here."""
    shape = weights.shape
    return weights.reshape(heads, shape[0] // heads // 2, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def _config(reader: GGUFReader) -> dict[str, Any]:
    heads = _field(reader, "llama.attention.head_count")
    hidden = _field(reader, "llama.embedding_length")
    names = {tensor.name for tensor in reader.tensors}
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": "blk.0.attn_q.bias" in names,
        "attention_dropout": 0.0,
        "bos_token_id": _field(reader, "tokenizer.ggml.bos_token_id"),
        "dtype": "bfloat16",
        "eos_token_id": _field(reader, "tokenizer.ggml.eos_token_id"),
        "head_dim": _field(reader, "llama.rope.dimension_count", hidden // heads),
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": _field(reader, "llama.feed_forward_length"),
        "max_position_embeddings": _field(reader, "llama.context_length"),
        "mlp_bias": "blk.0.ffn_up.bias" in names,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": _field(reader, "llama.block_count"),
        "num_key_value_heads": _field(reader, "llama.attention.head_count_kv", heads),
        "pad_token_id": _field(reader, "tokenizer.ggml.padding_token_id"),
        "rms_norm_eps": _shortest(_field(reader, "llama.attention.layer_norm_rms_epsilon")),
        "rope_scaling": None,
        "rope_theta": _shortest(_field(reader, "llama.rope.freq_base", 10000.0)),
        "tie_word_embeddings": "output.weight" not in names,
        "use_cache": True,
        "vocab_size": len(_field(reader, "tokenizer.ggml.tokens")),
    }


def _shortest(value: float) -> float:
    """Give the number as it was written: GGUF stores 1e-5 as the float32 9.99999974e-06."""
    return float(str(np.float32(value)))


def _generation_config(config: dict[str, Any]) -> dict[str, Any]:
    keys = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {key: config[key] for key in keys if config[key] is not None}


def _tokenizer(reader: GGUFReader, source: Path) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=_adds_prefix_space(reader))
    splitters = {
        "gpt-2": byte_level,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level]),
    }
    model = _field(reader, "tokenizer.ggml.model")
    splitter = _field(reader, "tokenizer.ggml.pre")
    if model != "gpt2" or splitter not in splitters:
        raise _unknown(f"a tokenizer of kind {model!r}, {splitter!r}", source)
    if _field(reader, "tokenizer.ggml.add_bos_token", False):
        raise _unknown("a tokenizer that puts a token before every text", source)

    tokens = _field(reader, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in _field(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = splitters[splitter]
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(
        [
            AddedToken(token, normalized=False, special=token_type == _CONTROL)
            for token, token_type in zip(tokens, _field(reader, "tokenizer.ggml.token_type"), strict=True)
            if token_type in (_CONTROL, _USER_DEFINED)
        ]
    )
    return tokenizer


def _adds_prefix_space(reader: GGUFReader) -> bool:
    return bool(_field(reader, "tokenizer.ggml.add_space_prefix", False))


def _special_tokens(reader: GGUFReader) -> dict[str, Any]:
    tokens = _field(reader, "tokenizer.ggml.tokens")
    roles = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    ids = {role: _field(reader, f"tokenizer.ggml.{key}_token_id") for role, key in roles.items()}
    return {role: tokens[index] for role, index in ids.items() if index is not None}


def _tokenizer_config(
    reader: GGUFReader, tokenizer: Tokenizer, config: dict[str, Any], special: dict[str, Any]
) -> dict[str, Any]:
    properties = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    added = {
        str(index): {name: getattr(token, name) for name in properties}
        for index, token in sorted(tokenizer.get_added_tokens_decoder().items())
    }
    template = _field(reader, "tokenizer.chat_template")
    return {
        "add_prefix_space": _adds_prefix_space(reader),
        "added_tokens_decoder": added,
        **special,
        **({"chat_template": template} if template else {}),
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
        "tokenizer_class": "PreTrainedTokenizerFast",  # reads tokenizer.json unchanged
    }
