"""Folders of models: which are complete, and what an error says of one that is not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.tiny_models import model_folder

from nbruntime.embedded.models import resolve_model
from nbruntime.embedded.models.folder import missing_parts
from nbruntime.embedded.models.weights import weight_files
from nbruntime.errors import ModelNotFoundError


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
    with pytest.raises(ModelNotFoundError, match=r"index\.json cannot be read"):
        resolve_model(str(folder))


@pytest.mark.parametrize("weights", ['{"a": 5}', '{"a": null, "b": "x"}', '"x"', "5"])
def test_invalid_weight_index_is_refused_by_name(tmp_path: Path, weights: str) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "model.safetensors.index.json").write_text(f'{{"weight_map": {weights}}}')
    with pytest.raises(ModelNotFoundError, match=r"index\.json cannot be read"):
        resolve_model(str(folder))


def test_folder_above_a_model_names_it(tmp_path: Path) -> None:
    inside = model_folder(tmp_path / "run" / "checkpoint-100")
    with pytest.raises(ModelNotFoundError, match=re.escape(f"Did you mean {inside}")):
        resolve_model(str(tmp_path / "run"))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_git_lfs_pointer_is_not_a_file(tmp_path: Path, name: str) -> None:
    folder = model_folder(
        tmp_path / "model", **{name: "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"}
    )
    with pytest.raises(ModelNotFoundError, match=rf"{re.escape(name)} \(only .* git lfs pull"):
        resolve_model(str(folder))


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["weights.safetensors"], ["weights.safetensors"]),
        (["a-2.safetensors", "a-1.safetensors"], ["a-1.safetensors", "a-2.safetensors"]),
        (["model.safetensors", "consolidated.safetensors"], ["model.safetensors"]),
        (["consolidated.safetensors"], ["consolidated.safetensors"]),
        (["model.safetensors", "adapter_model.safetensors"], ["model.safetensors"]),
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["pytorch_model.bin", "training_args.bin", "optimizer.bin"], ["pytorch_model.bin"]),
        (["training_args.bin", "adapter_model.bin", "original/consolidated.safetensors"], []),
    ],
)
def test_weights_are_files_of_one_format(tmp_path: Path, files: list[str], found: list[str]) -> None:
    (tmp_path / "original").mkdir()
    for name in files:
        (tmp_path / name).touch()
    assert [path.name for path in weight_files(tmp_path)] == found


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_index_decides_which_files_are_weights(tmp_path: Path, kind: str) -> None:
    stem = "model" if kind == "safetensors" else "pytorch_model"
    shards = {"a": f"{stem}-1.{kind}", "b": f"{stem}-2.{kind}"}
    (tmp_path / f"{stem}.{kind}.index.json").write_text(json.dumps({"weight_map": shards}))
    (tmp_path / f"{stem}.{kind}").touch()
    (tmp_path / f"other.{kind}").touch()
    assert [path.name for path in weight_files(tmp_path)] == list(shards.values())


def test_adapter_folder_is_refused_with_its_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(ModelNotFoundError, match="LoRA adapter of org/base, not a model"):
        resolve_model(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match="LoRA adapter, not a model"):
        resolve_model(str(tmp_path))


@pytest.mark.parametrize("content", ["", "<html>", "[]", "5"])
def test_unreadable_configuration_is_refused_by_name(tmp_path: Path, content: str) -> None:
    folder = model_folder(tmp_path / "model", **{"config.json": content})
    with pytest.raises(ModelNotFoundError, match=r"config\.json cannot be read"):
        resolve_model(str(folder))


def test_folder_of_a_gguf_file_names_it(tmp_path: Path) -> None:
    (tmp_path / "model.Q4_K_M.gguf").touch()
    with pytest.raises(ModelNotFoundError, match=r"Did you mean .*/model\.Q4_K_M\.gguf"):
        resolve_model(str(tmp_path))


def test_file_of_a_model_is_refused_with_its_folder(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    with pytest.raises(ModelNotFoundError, match=re.escape(f"Give its folder, {folder}.")):
        resolve_model(str(folder / "model.safetensors"))
