"""Reads a model's weights from its files, and says which are missing or broken."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from nbruntime.errors import ModelNotFoundError

_SHOWN = 3
"""Names in a message; there may be hundreds."""


def read_weights(files: Iterable[Path]) -> dict[str, Tensor]:
    """Read tensors by name; most of their memory is that of the files, until they are used.

    Raises
    ------
    ModelNotFoundError
        If a file is damaged, or a pickle holds more than tensors.
    """
    weights: dict[str, Tensor] = {}
    for path in files:
        try:
            weights.update(_read(path))
        except Exception as error:  # a damaged pickle raises anything
            raise _unreadable(path, error) from error
    return weights


def _read(path: Path) -> Mapping[str, Tensor]:
    weights: dict[str, Tensor] = (
        load_file(path)
        if path.suffix == ".safetensors"
        else torch.load(path, map_location="cpu", weights_only=True)  # runs no code of a pickle
    )
    return weights


def check_loaded(model: nn.Module, info: Mapping[str, Any], folder: Path) -> None:
    """Raise ModelNotFoundError if a model of transformers has not all its weights, or they are no numbers.

    Parameters
    ----------
    model, info
        What ``from_pretrained`` gives with ``output_loading_info``.
    folder : Path
        The model's folder, for the message.
    """
    if missing := info["missing_keys"]:
        raise ModelNotFoundError(
            f"The model folder lacks {_listed(missing)}",
            where=str(folder),
            hint="Fetch the folder again: a file is missing, or config.json is that of another model.",
        )
    if mismatched := info["mismatched_keys"]:
        names = [f"{name} {tuple(stored)} for {tuple(wanted)}" for name, stored, wanted in mismatched]
        raise ModelNotFoundError(
            f"The model folder has other shapes than config.json says in {_listed(names)}",
            where=str(folder),
            hint="Fetch the folder again: the weights or config.json are those of another model.",
        )
    if broken := [name for name, weight in model.named_parameters() if not _is_finite(weight)]:
        raise ModelNotFoundError(
            f"The model folder has NaN or infinite numbers in {_listed(broken)}",
            where=str(folder),
            hint="Fetch the weights again. If they are so at their source, the model's training diverged.",
        )


def parameters_of_head(model: Any) -> set[str]:
    """Name the parameters of a model's output head."""
    head = model.get_output_embeddings()
    names = (name for name, module in model.named_modules() if module is head)
    return {f"{name}.{parameter}" for name in names for parameter, _ in head.named_parameters()}


def _is_finite(weight: Tensor) -> bool:
    if not weight.numel():
        return True
    lowest, highest = torch.aminmax(weight.detach())  # much faster than torch.isfinite; NaN is both
    return math.isfinite(lowest.item()) and math.isfinite(highest.item())


def _listed(names: Iterable[str]) -> str:
    """Count weights and name the first.

    Examples
    --------
    >>> _listed({"b", "a", "d", "c", "e"})
    '5 weights: a, b, c and 2 more'
    """
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return f"{len(ordered)} weight{'s' * (len(ordered) != 1)}: {', '.join(ordered[:_SHOWN])}{more}"


def _unreadable(path: Path, error: Exception) -> ModelNotFoundError:
    foreign = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
    if foreign is not None:
        return ModelNotFoundError(
            f"The weights cannot be read: they hold more than tensors, {foreign[1]}",
            where=str(path),
            hint="Code of a pickle is not run: give a folder with *.safetensors.",
        )
    # torch.load puts advice before the reason.
    reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
    return ModelNotFoundError(
        f"The weights cannot be read: {reason or type(error).__name__}",
        where=str(path),
        hint="Fetch the file again: it is damaged, or its download was cut off.",
    )
