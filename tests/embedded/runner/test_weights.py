"""Weights are read from any set of files, and a model that lacks some is refused by their names."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.small_models import SMALL, make_model
from torch import Tensor

from nbruntime.embedded.runner.transformers_runner import load_model
from nbruntime.errors import LaunchError, ModelNotFoundError

Weights = dict[str, Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_model(tmp_path, "LlamaConfig", SMALL)


def take_weights(folder: Path) -> Weights:
    """Read the weights of a folder and remove their file."""
    path = folder / "model.safetensors"
    weights = {name: weight.clone() for name, weight in load_file(path).items()}
    path.unlink()
    return weights


def shards_without_index(folder: Path, weights: Weights) -> None:
    names = sorted(weights)
    save_file({name: weights[name] for name in names[:9]}, folder / "part-1.safetensors")
    save_file({name: weights[name] for name in names[9:]}, folder / "part-2.safetensors")


def twice_in_other_names(folder: Path, weights: Weights) -> None:
    save_file(weights, folder / "model.safetensors")
    save_file({"norm.weight": torch.zeros(3)}, folder / "consolidated.safetensors")


def pickled(folder: Path, weights: Weights) -> None:
    torch.save(weights, folder / "pytorch_model.bin")
    torch.save({"learning_rate": 0.1}, folder / "training_args.bin")


def of_the_base_model(folder: Path, weights: Weights) -> None:
    save_file(
        {n.removeprefix("model."): weight for n, weight in weights.items()}, folder / "model.safetensors"
    )


SERVED: dict[str, Callable[[Path, Weights], object]] = {
    "another name": lambda folder, weights: save_file(weights, folder / "weights.safetensors"),
    "shards without their index": shards_without_index,
    "consolidated weights as well": twice_in_other_names,
    "only consolidated.safetensors": lambda f, weights: save_file(weights, f / "consolidated.safetensors"),
    "a pickle": pickled,
    "names without their prefix": of_the_base_model,
    "more than the model takes": lambda folder, weights: save_file(
        weights | {"mtp.layers.0.weight": torch.zeros(2)}, folder / "model.safetensors"
    ),
}


@pytest.mark.parametrize("kind", SERVED)
def test_weights_are_found_in_any_set_of_files(folder: Path, kind: str) -> None:
    weights = take_weights(folder)
    SERVED[kind](folder, dict(weights))
    found = load_model(folder, dtype="float32")._model.state_dict()
    assert found.keys() == weights.keys()
    for name, weight in weights.items():
        assert torch.equal(found[name], weight), name


@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_missing_weights_are_named(folder: Path, dtype: str) -> None:
    weights = take_weights(folder)
    head = weights.pop("lm_head.weight")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelNotFoundError, match=r"lacks 1 weight: lm_head\.weight \(") as raised:
        load_model(folder, dtype=dtype)
    assert str(folder) in str(raised.value)
    layer = {name for name in weights if name.startswith("model.layers.1.")}
    rest = {name: weight for name, weight in weights.items() if name not in layer}
    save_file(rest | {"lm_head.weight": head}, folder / "model.safetensors")
    with pytest.raises(
        ModelNotFoundError, match=rf"lacks {len(layer)} weights: model\.layers\.1\.input"
    ) as raised:
        load_model(folder, dtype=dtype)
    assert f"and {len(layer) - 3} more" in str(raised.value)


def test_embeddings_need_no_output_head(folder: Path) -> None:
    weights = take_weights(folder)
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors")
    runner = load_model(folder, is_embedding=True)
    runner.warm_up()
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelNotFoundError, match=r"lacks 1 weight: model\.norm\.weight"):
        load_model(folder, is_embedding=True)


def test_weights_of_other_shapes_are_named(folder: Path) -> None:
    weights = take_weights(folder)
    save_file(weights | {"lm_head.weight": torch.zeros(98, 32)}, folder / "model.safetensors")
    with pytest.raises(ModelNotFoundError, match=r"lm_head\.weight \(98, 32\) for \(97, 32\)"):
        load_model(folder)


class Code:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return (print, ("code of a pickle ran",))


UNREADABLE: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "cut off": ("model.safetensors", lambda whole: whole[: len(whole) // 2]),
    "cut off in its header": ("model.safetensors", lambda whole: whole[:100]),
    "empty": ("model.safetensors", lambda whole: b""),
    "a page of the web": ("model.safetensors", lambda whole: b"<!DOCTYPE html><html></html>" * 9),
    "an empty pickle": ("pytorch_model.bin", lambda whole: b""),
    "a pickle with code": ("pytorch_model.bin", lambda whole: pickle.dumps(Code(), protocol=2)),
}


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_unreadable_weights_are_refused_by_their_file(
    folder: Path, kind: str, dtype: str, capfd: pytest.CaptureFixture[str]
) -> None:
    name, damaged = UNREADABLE[kind]
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(damaged(whole))
    with pytest.raises(ModelNotFoundError, match=r"The weights cannot be read: \w") as raised:
        load_model(folder, dtype=dtype)
    assert str(folder / name) in str(raised.value)
    assert "code of a pickle ran" not in capfd.readouterr().out


def test_a_pickle_with_more_than_tensors_is_named_and_another_form_advised(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"home": Path("/")}, folder / "pytorch_model.bin")
    with pytest.raises(ModelNotFoundError) as raised:
        load_model(folder)
    first, second = str(raised.value).splitlines()
    assert "more than tensors, pathlib." in first
    assert "safetensors" in second


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_weights_that_are_no_numbers_are_named(folder: Path, number: str, dtype: str) -> None:
    weights = take_weights(folder)
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = float(number)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelNotFoundError, match=r"NaN or .* in 1 weight: model\.layers\.1\.mlp\.up_proj"):
        load_model(folder, dtype=dtype)


def test_end_tokens_come_from_both_configurations(folder: Path) -> None:
    assert load_model(folder).facts.eos_token_ids == {2}
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 7]}')
    assert load_model(folder).facts.eos_token_ids == {2, 5, 7}
    (folder / "generation_config.json").unlink()
    assert load_model(folder).facts.eos_token_ids == {2}


@pytest.mark.parametrize(
    ("content", "words"), [("{", "cannot be read"), ('{"eos_token_id": "</s>"}', "is no token id")]
)
def test_a_broken_generation_config_is_named(folder: Path, content: str, words: str) -> None:
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(LaunchError, match=rf"generation_config\.json {words}") as raised:
        load_model(folder)
    assert "attention" not in str(raised.value)
