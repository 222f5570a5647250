"""The model runner gives the logits that transformers gives, whatever the architecture and the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from nbruntime.embedded.runner.batch import ExtendSegment, ForwardBatch, index
from nbruntime.embedded.runner.linear import PackedLinear, packing_works
from nbruntime.embedded.runner.transformers_runner import TransformersRunner, load_model
from nbruntime.errors import LaunchError

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
GPT2 = {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "eos_token_id": 2}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", SMALL),
    "llama-tied": ("LlamaConfig", SMALL | {"tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", SMALL),
    "qwen3": ("Qwen3Config", SMALL | {"head_dim": 16}),
    "mistral-windowed": ("MistralConfig", SMALL | {"sliding_window": 7}),
    "gemma": ("GemmaConfig", SMALL | {"head_dim": 8}),
    "gpt2": ("GPT2Config", GPT2),
    "phi": ("PhiConfig", SMALL),
    "smollm3": ("SmolLM3Config", SMALL),
}


@pytest.fixture(params=ARCHITECTURES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_model(tmp_path, *ARCHITECTURES[request.param])


def make_model(folder: Path, config_name: str, settings: dict[str, Any]) -> Path:
    torch.manual_seed(0)
    config = getattr(transformers, config_name)(**settings)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def extend(slots: list[list[int]], parts: list[tuple[int, list[int], int, int]]) -> ForwardBatch:
    """Lay out runs (sequence, its tokens, begin, end); all their logits are wanted."""
    ids: list[int] = []
    positions: list[int] = []
    written: list[int] = []
    segments = []
    for sequence, tokens, begin, end in parts:
        segments.append(ExtendSegment(len(ids), end - begin, index(slots[sequence][:end])))
        ids.extend(tokens[begin:end])
        positions.extend(range(begin, end))
        written.extend(slots[sequence][begin:end])
    return ForwardBatch(
        index(ids), index(positions), index(written), torch.arange(len(ids)), segments=tuple(segments)
    )


def decode(slots: list[list[int]], sequences: list[list[int]]) -> ForwardBatch:
    """Lay out the last token of each sequence."""
    lengths = torch.tensor([len(tokens) for tokens in sequences])
    longest = int(lengths.max())
    contexts = torch.zeros(len(sequences), longest, dtype=torch.int64)
    for row, tokens in enumerate(sequences):
        contexts[row, : len(tokens)] = index(slots[row][: len(tokens)])
    mask = (torch.arange(longest) < lengths[:, None]).view(len(sequences), 1, 1, longest)
    return ForwardBatch(
        index([tokens[-1] for tokens in sequences]),
        lengths - 1,
        index([slots[row][len(tokens) - 1] for row, tokens in enumerate(sequences)]),
        torch.arange(len(sequences)),
        contexts=contexts,
        mask=mask,
    )


def test_chunks_and_decode_steps_give_the_logits_of_one_pass(folder: Path) -> None:
    torch.manual_seed(1)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    sequences = [torch.randint(3, 97, (length,)).tolist() for length in (5, 23, 14)]
    with torch.inference_mode():
        expected = [plain(input_ids=torch.tensor([tokens])).logits[0] for tokens in sequences]

    runner = load_model(folder, dtype="float32")
    runner.allocate_cache(100)
    # Slots in no order, as after a while of use.
    shuffled = (torch.randperm(100) + 1).tolist()
    slots = [shuffled[:30], shuffled[30:60], shuffled[60:90]]
    first = runner.forward(extend(slots, [(0, sequences[0], 0, 3), (1, sequences[1], 0, 10)]))
    close(first, torch.cat([expected[0][:3], expected[1][:10]]))
    second = runner.forward(
        extend(slots, [(0, sequences[0], 3, 4), (1, sequences[1], 10, 22), (2, sequences[2], 0, 13)])
    )
    close(second, torch.cat([expected[0][3:4], expected[1][10:22], expected[2][:13]]))
    close(runner.forward(decode(slots, sequences)), torch.stack([logits[-1] for logits in expected]))


def close(found: Tensor, expected: Tensor) -> None:
    difference = (found - expected).abs().max().item()
    print(f"largest difference of {found.numel()} logits: {difference:.1e}")
    assert difference < 1e-4


def test_facts_of_a_model(tmp_path: Path) -> None:
    runner = load_model(make_model(tmp_path, "LlamaConfig", SMALL), dtype="float32")
    facts = runner.facts
    assert (facts.vocab_size, facts.context_length, facts.eos_token_ids) == (97, 128, frozenset({2}))
    assert facts.kv_bytes_per_token == 2 * 4 * 2 * 2 * 8
    assert facts.precision == "float32"
    assert facts.weight_bytes == 4 * sum(p.numel() for p in plain_parameters(tmp_path))


def plain_parameters(folder: Path) -> list[Tensor]:
    return list(transformers.AutoModelForCausalLM.from_pretrained(folder).parameters())


@pytest.mark.skipif(not packing_works(), reason="this CPU or build of torch has no packed float16 product")
def test_packed_linears_are_close_and_small() -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(256, 128)
    packed = PackedLinear(linear)
    inputs = torch.randn(5, 256)
    error = (packed(inputs) - linear(inputs)).norm() / linear(inputs).norm()
    print(f"relative error of the packed product: {error:.1e}")
    assert error < 1e-3


def test_embedding_is_the_last_hidden_state(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "LlamaConfig", SMALL)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokens = [5, 6, 7, 8]
    with torch.inference_mode():
        expected = plain.base_model(input_ids=torch.tensor([tokens])).last_hidden_state[0]
    runner = load_model(folder, dtype="float32")
    runner.allocate_cache(10)
    close(runner.embed(extend([list(range(1, 11))], [(0, tokens, 0, 4)])), expected)


def test_a_model_that_is_no_causal_model_is_refused(tmp_path: Path) -> None:
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    config.save_pretrained(tmp_path)
    with pytest.raises(LaunchError, match="not a causal language model"):
        load_model(tmp_path)


def test_layers_that_need_more_than_keys_and_values_are_refused(tmp_path: Path) -> None:
    settings = SMALL | {"layer_types": ["linear_attention", "full_attention"]}
    make_model(tmp_path, "Qwen3NextConfig", settings)
    with pytest.raises(LaunchError, match="linear_attention"):
        load_model(tmp_path)


def test_soft_capped_attention_is_refused(tmp_path: Path) -> None:
    make_model(tmp_path, "Gemma2Config", SMALL | {"head_dim": 8})
    with pytest.raises(LaunchError, match="soft-capped"):
        load_model(tmp_path)


def test_warming_up_runs_the_model(tmp_path: Path) -> None:
    runner = load_model(make_model(tmp_path, "LlamaConfig", SMALL), dtype="float32")
    runner.allocate_cache(4)
    runner.warm_up()
    assert isinstance(runner, TransformersRunner)
