"""Linear layers whose weights are packed to 16 bits, with sums in 32 bits.

FBGEMM's packed float16 product reads half the bytes of float32, and reading weights is what decoding on
a CPU waits for. The relative error of a product is about 2e-4.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """``nn.Linear`` over a weight packed to float16.

    Parameters
    ----------
    linear : nn.Linear
        The layer to take the place of.
    packed : object, optional
        Its weight, if that is packed already.
    """

    def __init__(self, linear: nn.Linear, packed: Any = None) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed = _pack(linear.weight, linear.bias) if packed is None else packed

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply; the last axis of `inputs` has ``in_features`` numbers."""
        product: Tensor = torch.ops.quantized.linear_dynamic_fp16(inputs, self.packed)
        return product


def _pack(weight: Tensor, bias: Tensor | None = None) -> Any:
    bias = None if bias is None else bias.detach().float()
    return torch.ops.quantized.linear_prepack_fp16(weight.detach().float().contiguous(), bias)


class _Packed(NamedTuple):
    weight: Tensor
    packed: Any


class PackedAhead:
    """The largest matrix of a model, packed by a thread of its own while the model's code is imported.

    It is the head, mostly, and its packing takes half as long as that of all other layers together.

    Parameters
    ----------
    folder : Path
        Of the model; without safetensors in it nothing is packed.
    """

    def __init__(self, folder: Path) -> None:
        pool = ThreadPoolExecutor(1, "pack-ahead")
        self._found: Future[_Packed | None] = pool.submit(_pack_largest, folder)
        pool.shutdown(wait=False)  # the thread ends with its only work

    def take(self, linear: nn.Linear) -> Any:
        """Give the packed weight of a layer, waiting for it; None if another matrix was packed."""
        found = None if _has_bias(linear) else self._found.result()
        if found is None or found.weight.dtype != linear.weight.dtype:
            return None
        return found.packed if torch.equal(found.weight, linear.weight) else None


def _has_bias(linear: nn.Linear) -> bool:
    return getattr(linear, "bias", None) is not None  # torch declares it to be there always


def _pack_largest(folder: Path) -> _Packed | None:
    from safetensors import safe_open

    sizes: dict[tuple[Path, str], tuple[int, bool]] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                stored: Any = file.get_slice(name)
                shape = stored.get_shape()
                if len(shape) == 2:
                    # An embedding is as large as the head: it is multiplied only where there is no other.
                    sizes[path, name] = shape[0] * shape[1], "embed" not in name
    if not sizes:
        return None
    path, name = max(sizes, key=sizes.__getitem__)
    with safe_open(path, framework="pt") as file:
        weight = file.get_tensor(name)
    return _Packed(weight, _pack(weight))


def packing_works() -> bool:
    """Tell whether this CPU and this build of torch have the packed product."""
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        return False
    return torch.backends.cpu.get_cpu_capability() in {"AVX2", "AVX512"}


def pack_linears(model: nn.Module, ahead: PackedAhead | None = None) -> int:
    """Replace every ``nn.Linear`` in `model` by a `PackedLinear`, freeing the old weights one by one.

    Parameters
    ----------
    model : nn.Module
        Changed in place. Subclasses of ``nn.Linear`` are left alone.
    ahead : PackedAhead, optional
        Of the model's folder.

    Returns
    -------
    int
        Bytes of packed weights.
    """
    places = [
        (child.in_features * child.out_features, parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
    ]
    # The largest first: the head alone may take as long as all the others.
    places.sort(key=lambda place: place[0], reverse=True)

    largest = places[0][0] if places else 0

    def pack(place: tuple[int, nn.Module, str]) -> int:
        weights, parent, name = place
        linear = getattr(parent, name)
        packed = ahead.take(linear) if ahead is not None and weights == largest else None
        setattr(parent, name, PackedLinear(linear, packed))
        return 2 * weights

    # Packing uses one thread, and lets go of the interpreter meanwhile.
    with ThreadPoolExecutor(torch.get_num_threads(), "pack") as pool:
        return sum(pool.map(pack, places))
