"""Folders of models: which are complete, and what an error says of one that is not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.tiny_models import model_folder

from nbruntime.embedded.models import resolve_model
from nbruntime.embedded.models.folder import missing_parts
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
