"""The model runner gives the logits that transformers gives, whatever the architecture and the batch."""

from __future__ import annotations

import copy
import itertools
import json
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from support.small_models import SMALL, make_model
from torch import Tensor

from nbruntime.embedded.engine.batching import decode_batch
from nbruntime.embedded.engine.scheduler import DecodeStep
from nbruntime.embedded.models.weights import weight_files
from nbruntime.embedded.runner.batch import ExtendSegment, ForwardBatch, index
from nbruntime.embedded.runner.linear import PackedLinear, pack_linears, packing_works
from nbruntime.embedded.runner.transformers_runner import TransformersRunner, load_model
from nbruntime.embedded.runner.weight_prefetch import WeightPrefetch
from nbruntime.errors import LaunchError

needs_packing = pytest.mark.skipif(
    not packing_works(), reason="this CPU or build of torch has no packed float16 product"
)

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
    """Lay out the last token of each sequence, as the engine does."""
    requests: list[Any] = [
        SimpleNamespace(length=len(tokens), output_ids=tokens, span=SimpleNamespace(slots=own[: len(tokens)]))
        for tokens, own in zip(sequences, slots, strict=True)
    ]
    return decode_batch(DecodeStep(tuple(requests)))


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


@needs_packing
def test_packed_linears_are_close_and_small() -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(256, 128)
    packed = PackedLinear(linear)
    inputs = torch.randn(5, 256)
    error = (packed(inputs) - linear(inputs)).norm() / linear(inputs).norm()
    print(f"relative error of the packed product: {error:.1e}")
    assert error < 1e-3


@needs_packing
@pytest.mark.parametrize("tied", [True, False])
def test_prefetched_weights_give_the_same_logits(tmp_path: Path, tied: bool) -> None:
    make_model(tmp_path, "LlamaConfig", SMALL | {"tie_word_embeddings": tied})
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    inputs = torch.randn(5, plain.lm_head.in_features)
    expected = PackedLinear(plain.lm_head)(inputs)
    name = "model.embed_tokens.weight" if tied else "lm_head.weight"
    with closing(WeightPrefetch(weight_files(tmp_path))) as ahead:
        ahead._work.result()
        assert ("model.embed_tokens.weight" in ahead._packed) is tied
        every = set(ahead._packed)
        assert every > {"model.layers.0.mlp.up_proj.weight", name}
        pack_linears(plain, ahead)
        assert ahead._packed == {}, "what was packed was taken"
    assert torch.equal(plain.lm_head(inputs), expected)


@needs_packing
def test_prefetched_weights_are_used_for_equal_weights_only(tmp_path: Path) -> None:
    make_model(tmp_path, "LlamaConfig", SMALL)
    name = "model.layers.0.self_attn.q_proj.weight"
    linear = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).model.layers[0].self_attn.q_proj
    other = torch.nn.Linear(linear.in_features, linear.out_features, bias=False)
    biased = torch.nn.Linear(linear.in_features, linear.out_features)
    biased.weight = linear.weight
    cases = {"itself": (linear, True), "another weight": (other, False), "a bias": (biased, False)}
    cases["another type"] = (copy.deepcopy(linear).to(torch.bfloat16), False)
    for case, (layer, taken) in cases.items():
        with closing(WeightPrefetch(weight_files(tmp_path))) as ahead:
            ahead._work.result()
            assert (ahead.take(layer, ["unknown", name]) is not None) is taken, case


def test_without_safetensors_nothing_is_prefetched(tmp_path: Path) -> None:
    with closing(WeightPrefetch([tmp_path / "pytorch_model.bin"])) as ahead:
        ahead.stop()
        assert ahead._packed == {}


def test_embedding_is_the_last_hidden_state(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "LlamaConfig", SMALL)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokens = [5, 6, 7, 8]
    with torch.inference_mode():
        expected = plain.base_model(input_ids=torch.tensor([tokens])).last_hidden_state[0]
    runner = load_model(folder, dtype="float32")
    runner.allocate_cache(10)
    close(runner.embed(extend([list(range(1, 11))], [(0, tokens, 0, 4)])), expected)


def test_a_non_causal_model_is_refused(tmp_path: Path) -> None:
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


MORE_THAN_KEYS_AND_VALUES: dict[str, tuple[str, dict[str, Any], str]] = {
    "sinks": ("GptOssConfig", SMALL | {"head_dim": 8, "num_local_experts": 4}, "differ"),
    "a bias of its own": ("BloomConfig", {"vocab_size": 97, "hidden_size": 32, "n_layer": 2}, "differ"),
    "attention of its own": ("GPTJConfig", GPT2 | {"rotary_dim": 4}, "KeyError"),
    "two attentions at once": ("DiffLlamaConfig", SMALL, "differ"),
    "no back ends": ("StableLmConfig", SMALL, "TypeError"),
}


@pytest.mark.parametrize("kind", MORE_THAN_KEYS_AND_VALUES)
def test_a_model_with_wrong_logits_over_the_cache_is_refused(tmp_path: Path, kind: str) -> None:
    config_name, settings, reason = MORE_THAN_KEYS_AND_VALUES[kind]
    folder = make_model(tmp_path, config_name, settings)
    name = getattr(transformers, config_name).model_type
    with pytest.raises(LaunchError, match=rf"cannot serve {name}: .*{reason}") as refusal:
        load_model(folder).warm_up()
    assert "engine='sglang'" in str(refusal.value).splitlines()[1]


def test_a_folder_that_transformers_cannot_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no_such_model"}')
    with pytest.raises(LaunchError, match=r"cannot serve .*no_such_model"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": None}, "model_type"),
        ({"eos_token_id": "</s>"}, "eos_token_id': TypeError"),
        ({"num_attention_heads": 5}, "number of attention heads"),
    ],
)
def test_a_broken_configuration_is_refused_by_its_field(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    settings = {"model_type": "llama"} | SMALL | change
    (tmp_path / "config.json").write_text(
        json.dumps({name: each for name, each in settings.items() if each is not None})
    )
    with pytest.raises(LaunchError, match=reason) as raised:
        load_model(tmp_path)
    assert str(raised.value).splitlines()[1].startswith("Mend config.json")


def test_warm_up_accepts_a_supported_model(folder: Path) -> None:
    runner = load_model(folder)
    runner.warm_up()
    assert isinstance(runner, TransformersRunner)


def test_rows_of_a_decode_step_are_padded_to_twice_their_length_at_most(tmp_path: Path) -> None:
    runner = load_model(
        make_model(tmp_path, "MistralConfig", SMALL | {"sliding_window": 100}), dtype="float32"
    )
    lengths = [3000, 5, 700, 128, 90, 500]
    free = iter(range(1, sum(lengths) + 1))
    slots = [list(itertools.islice(free, length)) for length in lengths]
    sequences = [[position % 97 for position in range(length)] for length in lengths]
    batch = decode(slots, sequences)
    shapes = [tuple(group.contexts.shape) for group in batch.groups]
    assert shapes == [(3, 128), (2, 700), (1, 3000)]
    # Each request's row of logits is the one that it gets alone.
    runner.allocate_cache(sum(lengths))
    runner.forward(extend(slots, [(row, sequences[row], 0, lengths[row]) for row in range(len(lengths))]))
    together = runner.forward(batch)
    for row in range(len(lengths)):
        close(together[row], runner.forward(decode(slots[row : row + 1], sequences[row : row + 1]))[0])


def test_a_request_s_logits_do_not_depend_on_its_neighbours_by_longrope(tmp_path: Path) -> None:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [1.0, 2.0, 4.0, 8.0],
        "original_max_position_embeddings": 32,
    }
    folder = make_model(
        tmp_path, "Phi3Config", SMALL | {"original_max_position_embeddings": 32, "rope_parameters": rope}
    )
    runner = load_model(folder, dtype="float32")
    longest = runner.facts.context_length
    assert longest == 32
    runner.allocate_cache(60)
    slots = [list(range(1, 11)), list(range(11, 11 + longest))]
    short, long = (
        [7 * position % 97 for position in range(10)],
        [5 * position % 97 for position in range(longest)],
    )
    alone = runner.forward(extend(slots, [(0, short, 0, 10)]))
    together = runner.forward(extend(slots, [(0, short, 0, 10), (1, long, 0, longest)]))
    close(together[:10], alone)


def test_a_context_beyond_the_model_s_is_refused_before_the_weights_are_read(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "LlamaConfig", SMALL)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(LaunchError, match="--context-length 129 is more than the model's 128 tokens"):
        load_model(folder, context_length=129)
    with pytest.raises(LaunchError, match="weights cannot be read"):
        load_model(folder, context_length=128)


def test_a_cache_larger_than_memory_is_refused(tmp_path: Path) -> None:
    runner = load_model(make_model(tmp_path, "LlamaConfig", SMALL))
    with pytest.raises(
        LaunchError, match=r"Not enough memory for a KV cache of 10{15} tokens, .* GiB\n.*--max-total"
    ):
        runner.allocate_cache(10**15)
