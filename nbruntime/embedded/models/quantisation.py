"""How the weights of a model folder are quantised, by its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbruntime.embedded.models.json_file import read_json
from nbruntime.errors import LaunchError

CONFIG_FILES = ("config.json", "hf_quant_config.json", "quantize_config.json", "quant_config.json")
"""Files that may say it: transformers', ModelOpt's, AutoGPTQ's and AutoAWQ's."""

_KEYS = ("quantization_config", "compression_config", "quantization")


def refuse_quantised(folder: Path) -> None:
    """Raise LaunchError if the weights of a model are quantised; reads small files only."""
    scheme = quantisation(folder)
    if scheme is not None:
        raise LaunchError(
            f"The embedded server cannot serve quantised weights: the model is quantised with {scheme}",
            where=str(folder),
            hint="Give the unquantised model that it was made of, or its GGUF file, or use engine='sglang'.",
        )


def quantisation(folder: Path) -> str | None:
    """Name the scheme in the words of its tool, with its bits; None if the weights are not quantised."""
    config, *others = (read_json(folder / name) for name in CONFIG_FILES)
    text = config.get("text_config") or {}
    found = [each.get(key) for each in (config, text, *others) for key in _KEYS]
    found += others[1:]  # AutoGPTQ's and AutoAWQ's are the object itself
    return next((_scheme(each) for each in found if isinstance(each, dict) and _scheme(each)), None)


def _scheme(config: Mapping[str, Any]) -> str | None:
    """Name the scheme of one configuration.

    Examples
    --------
    >>> _scheme({"quant_method": "gptq", "bits": 4})
    'gptq (4 bits)'
    >>> _scheme({"quant_method": "bitsandbytes", "load_in_8bit": True})
    'bitsandbytes (8 bits)'
    >>> _scheme({"group_size": 64, "bits": 4})
    'MLX (4 bits)'
    """
    bits = config.get("bits") or config.get("w_bit")
    bits = bits or next((each for each in (4, 8) if config.get(f"load_in_{each}bit")), None)
    algorithm = config.get("quant_algo")
    method = config.get("quant_method") or (algorithm and "modelopt")
    if method is None and bits:
        method = "AWQ" if "w_bit" in config else "GPTQ" if "desc_act" in config else "MLX"
    if not method:
        return None
    detail = algorithm or (bits and f"{bits} bits")
    return f"{method} ({detail})" if detail else str(method)
