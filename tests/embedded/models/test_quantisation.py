"""Quantised models are refused by the name of their scheme, before their weights are read or fetched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.tiny_models import model_folder

from nbruntime.embedded.models import resolve_model
from nbruntime.embedded.models.quantisation import quantisation
from nbruntime.errors import LaunchError

MODELOPT = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "group_size": 16}}

SCHEMES: dict[str, tuple[dict[str, Any], str]] = {
    "GPTQ": ({"config.json": {"quantization_config": {"quant_method": "gptq", "bits": 4}}}, "gptq (4 bits)"),
    "AWQ": ({"config.json": {"quantization_config": {"quant_method": "awq", "bits": 4}}}, "awq (4 bits)"),
    "FP8": ({"config.json": {"quantization_config": {"quant_method": "fp8", "fmt": "e4m3"}}}, "fp8"),
    "4 bits of bitsandbytes": (
        {"config.json": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}},
        "bitsandbytes (4 bits)",
    ),
    "8 bits of bitsandbytes": (
        {"config.json": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}},
        "bitsandbytes (8 bits)",
    ),
    "MLX": ({"config.json": {"quantization": {"group_size": 64, "bits": 4}}}, "MLX (4 bits)"),
    "MLX, named twice": (
        {"config.json": {"quantization": {"bits": 8}, "quantization_config": {"bits": 8}}},
        "MLX (8 bits)",
    ),
    "compressed-tensors": (
        {"config.json": {"quantization_config": {"quant_method": "compressed-tensors"}}},
        "compressed-tensors",
    ),
    "compressed-tensors, once": (
        {"config.json": {"compression_config": {"quant_method": "compressed-tensors"}}},
        "compressed-tensors",
    ),
    "torchao": ({"config.json": {"quantization_config": {"quant_method": "torchao"}}}, "torchao"),
    "HQQ": ({"config.json": {"quantization_config": {"quant_method": "hqq"}}}, "hqq"),
    "MXFP4": ({"config.json": {"quantization_config": {"quant_method": "mxfp4"}}}, "mxfp4"),
    "of the text model": (
        {"config.json": {"text_config": {"quantization_config": {"quant_method": "fp8"}}}},
        "fp8",
    ),
    "NVFP4 of ModelOpt": ({"hf_quant_config.json": MODELOPT}, "modelopt (NVFP4)"),
    "FP8 of ModelOpt": (
        {"config.json": {"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}}},
        "modelopt (FP8)",
    ),
    "AutoGPTQ": ({"quantize_config.json": {"bits": 4, "desc_act": False}}, "GPTQ (4 bits)"),
    "AutoAWQ": ({"quant_config.json": {"w_bit": 4, "q_group_size": 128}}, "AWQ (4 bits)"),
}


@pytest.mark.parametrize("kind", SCHEMES)
def test_quantised_folder_is_refused_by_its_scheme(tmp_path: Path, kind: str) -> None:
    files, scheme = SCHEMES[kind]
    folder = model_folder(tmp_path / "model", **{name: json.dumps(value) for name, value in files.items()})
    with pytest.raises(LaunchError) as raised:
        resolve_model(str(folder))
    message, hint = str(raised.value).splitlines()
    assert message.endswith(f"the model is quantised with {scheme} ({folder})")
    assert "unquantised model" in hint
    assert "GGUF" in hint


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"quantization_config": None},
        {"quantization_config": {}},
        {"text_config": None},
        {"quantization_config": {"quant_method": None, "quant_algo": None, "kv_cache_quant_algo": "FP8"}},
    ],
)
def test_other_folders_are_not_quantised(tmp_path: Path, config: dict[str, Any]) -> None:
    folder = model_folder(tmp_path / "model", **{"config.json": json.dumps(config)})
    assert quantisation(folder) is None
