"""Small models for tests: a Llama in GGUF, and the folder of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize, quantize
from tokenizers import pre_tokenizers

HIDDEN, HEADS, KV_HEADS, LAYERS = 64, 4, 2, 2
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"


class Reports(list[tuple[str, float | None, float | None, str]]):
    """Keeps what was reported."""

    def __call__(self, phase: str, done: float | None, total: float | None, unit: str) -> None:
        self.append((phase, done, total, unit))

    @property
    def phases(self) -> list[str]:
        return list(dict.fromkeys(report[0] for report in self))


def vocabulary() -> tuple[list[str], list[str]]:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = ["Ġ t", "h e", "Ġt he", "1 2"]
    return [*SPECIAL, *letters, *(merge.replace(" ", "") for merge in merges)], merges


def permuted(weights: np.ndarray, heads: int) -> np.ndarray:
    """The order of the rows of q and k in GGUF, written out row by row: halves of a head are interleaved."""
    size = len(weights) // heads
    order = [
        head * size + half * (size // 2) + row
        for head in range(heads)
        for row in range(size // 2)
        for half in range(2)
    ]
    return weights[order]


def tiny_gguf(
    path: Path, *, tensors: dict[str, np.ndarray] | None = None, **fields: Any
) -> dict[str, np.ndarray]:
    """Write a small quantised model; return its weights as transformers names and orders them."""
    random = np.random.default_rng(0)
    tokens, merges = vocabulary()
    writer = gguf.GGUFWriter(path, fields.pop("arch", "llama"))
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(2 * HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(100000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(fields.pop("tokenizer", "gpt2"))
    writer.add_tokenizer_pre(fields.pop("pre", "smollm"))
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)
    for name, value in fields.items():
        getattr(writer, f"add_{name}")(value)

    def linear(rows: int, columns: int) -> np.ndarray:
        return random.standard_normal((rows, columns)).astype(np.float32)

    weights: dict[str, np.ndarray] = {}

    def add(
        name: str, target: str, value: np.ndarray, kind: gguf.GGMLQuantizationType, heads: int = 0
    ) -> None:
        stored = quantize(permuted(value, heads) if heads else value, kind)
        writer.add_tensor(name, stored, raw_dtype=kind)
        weights[target] = dequantize(quantize(value, kind), kind)

    q4, q8, f32 = (gguf.GGMLQuantizationType[kind] for kind in ("Q4_1", "Q8_0", "F32"))
    add("token_embd.weight", "model.embed_tokens.weight", linear(len(tokens), HIDDEN), q8)
    add("output_norm.weight", "model.norm.weight", linear(1, HIDDEN)[0], f32)
    for layer in range(LAYERS):
        ours, theirs = f"blk.{layer}", f"model.layers.{layer}"
        add(f"{ours}.attn_q.weight", f"{theirs}.self_attn.q_proj.weight", linear(HIDDEN, HIDDEN), q4, HEADS)
        add(
            f"{ours}.attn_k.weight",
            f"{theirs}.self_attn.k_proj.weight",
            linear(HIDDEN // 2, HIDDEN),
            q4,
            KV_HEADS,
        )
        add(f"{ours}.attn_v.weight", f"{theirs}.self_attn.v_proj.weight", linear(HIDDEN // 2, HIDDEN), q4)
        add(f"{ours}.attn_output.weight", f"{theirs}.self_attn.o_proj.weight", linear(HIDDEN, HIDDEN), q4)
        add(f"{ours}.ffn_gate.weight", f"{theirs}.mlp.gate_proj.weight", linear(2 * HIDDEN, HIDDEN), q4)
        add(f"{ours}.ffn_up.weight", f"{theirs}.mlp.up_proj.weight", linear(2 * HIDDEN, HIDDEN), q4)
        add(f"{ours}.ffn_down.weight", f"{theirs}.mlp.down_proj.weight", linear(HIDDEN, 2 * HIDDEN), q4)
        add(f"{ours}.attn_norm.weight", f"{theirs}.input_layernorm.weight", linear(1, HIDDEN)[0], f32)
        add(f"{ours}.ffn_norm.weight", f"{theirs}.post_attention_layernorm.weight", linear(1, HIDDEN)[0], f32)
    for name, value in (tensors or {}).items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def model_folder(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True)
    for name, content in {
        "config.json": "{}",
        "model.safetensors": "w",
        "tokenizer.json": "{}",
        **files,
    }.items():
        (folder / name).write_text(content)
    return folder
