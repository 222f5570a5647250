"""Packs weights in a thread while transformers is imported, which keeps one core busy for seconds.

The names of the weights in the model's files are mostly those of its parameters; other weights are packed
later.
"""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

MOST_WEIGHTS = 2**28
"""Limit of weights packed ahead: they are held in memory beside the model."""


class _Stored(NamedTuple):
    size: int
    file: Path
    name: str


class _Packed(NamedTuple):
    weight: Tensor
    packed: Any


def pack(weight: Tensor, bias: Tensor | None = None) -> Any:
    """Pack a matrix to float16 for FBGEMM's product, with its bias in float32."""
    bias = None if bias is None else bias.detach().float()
    return torch.ops.quantized.linear_prepack_fp16(weight.detach().float().contiguous(), bias)


class WeightPrefetch:
    """Packs the matrices in a model's safetensors files in a thread, largest first."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._packed: dict[str, _Packed] = {}
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(1, "pack-ahead")
        try:
            matrices = _matrices(files)  # in the thread this would wait for the interpreter lock
        except SafetensorError:
            matrices = []  # loading the model reports it
        self._work = self._pool.submit(self._pack_stored, matrices)

    def _pack_stored(self, matrices: list[_Stored]) -> None:
        left = MOST_WEIGHTS
        with ExitStack() as files:
            opened: dict[Path, Any] = {}
            for size, path, name in matrices:
                left -= size
                if self._stopping.is_set() or left < 0:
                    return
                if path not in opened:
                    opened[path] = files.enter_context(safe_open(path, framework="pt"))
                weight = opened[path].get_tensor(name)
                self._packed[name] = _Packed(weight, pack(weight))

    def stop(self) -> None:
        """Finish the matrix that is being packed, and start no other."""
        self._stopping.set()
        self._work.result()

    def take(self, linear: nn.Linear, names: Iterable[str]) -> Any:
        """Give the packed weight of a layer, known by any of `names` (tied weights have several).

        None if it was not packed, if the file holds another weight by that name, or if the layer has a bias.
        """
        weight = linear.weight
        found = next(filter(None, (self._packed.pop(name, None) for name in names)), None)
        if found is None or _has_bias(linear) or found.weight.dtype != weight.dtype:
            return None
        return found.packed if torch.equal(found.weight, weight) else None

    def close(self) -> None:
        """Stop the thread without waiting for it and drop packed weights that were not taken."""
        self._stopping.set()
        self._pool.shutdown(wait=False)  # a refused model is reported at once
        self._packed.clear()


def _has_bias(linear: nn.Linear) -> bool:
    return getattr(linear, "bias", None) is not None  # torch types it as never None


def _matrices(files: Iterable[Path]) -> list[_Stored]:
    """Find the matrices that linear layers may multiply by, largest first."""
    found: defaultdict[tuple[int, ...], list[_Stored]] = defaultdict(list)
    for path in files:
        if path.suffix != ".safetensors":
            continue
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                stored: Any = file.get_slice(name)
                shape = tuple(stored.get_shape())
                if len(shape) == 2:
                    found[shape].append(_Stored(math.prod(shape), path, name))
    # An embedding is multiplied only where there is no head beside it.
    heads = [[each for each in alike if "embed" not in each.name] or alike for alike in found.values()]
    return sorted((each for alike in heads for each in alike), key=lambda each: each.size, reverse=True)
