"""Linear layers with weights packed to float16 and sums in float32, by FBGEMM.

Decoding on a CPU waits for the weights to be read, and packed ones are half as large. The relative error of a
product is about 2e-4.
"""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from nbruntime.embedded.runner.weight_prefetch import WeightPrefetch, pack


class PackedLinear(nn.Module):
    """``nn.Linear`` over a weight packed to float16; `packed` is the weight, if it is packed already."""

    def __init__(self, linear: nn.Linear, packed: Any = None) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed = pack(linear.weight, linear.bias) if packed is None else packed

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply `inputs`, whose last axis has ``in_features`` numbers."""
        product: Tensor = torch.ops.quantized.linear_dynamic_fp16(inputs, self.packed)
        return product


def packing_works() -> bool:
    """Tell whether this CPU and this build of torch have the packed product."""
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        return False
    return torch.backends.cpu.get_cpu_capability() in {"AVX2", "AVX512"}


def pack_linears(model: nn.Module, ahead: WeightPrefetch | None = None) -> int:
    """Replace every ``nn.Linear`` in `model` by a `PackedLinear`, in place; subclasses stay.

    Old weights are freed one by one. `ahead` is stopped, and what it packed is used.

    Returns
    -------
    int
        Bytes of packed weights.
    """
    names: dict[int, list[str]] = defaultdict(list)
    for name, weight in model.named_parameters(remove_duplicate=False):
        names[id(weight)].append(name)
    if ahead is not None:
        ahead.stop()
    places = [
        (child.in_features * child.out_features, parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
    ]
    # Largest first: the head alone may take as long as all others.
    places.sort(key=lambda place: place[0], reverse=True)

    def replace(place: tuple[int, nn.Module, str]) -> int:
        weights, parent, name = place
        linear = getattr(parent, name)
        packed = None if ahead is None else ahead.take(linear, names[id(linear.weight)])
        setattr(parent, name, PackedLinear(linear, packed))
        return 2 * weights

    # Packing uses one thread and releases the interpreter lock.
    with ThreadPoolExecutor(torch.get_num_threads(), "pack") as pool:
        return sum(pool.map(replace, places))
