"""A self-check of a model at start: with and without our KV cache it must give the same logits.

transformers has hundreds of architectures. Some do more in attention than a back end is told, some keep their
own state between tokens, and only their logits show it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nbruntime.embedded.runner.batch import DecodeGroup, ExtendSegment, ForwardBatch, index

TOKENS = 12
"""Length of the sequence."""

TOLERANCE = 1e-3
"""Largest relative difference of logits; another order of sums makes about 1e-5."""


def run_in_steps(forward: Callable[[ForwardBatch], Tensor], tokens: list[int]) -> Tensor:
    """Run at least three tokens as the engine would: a prompt in two chunks, then a decode step."""
    slots = list(range(len(tokens), 0, -1))
    last = len(tokens) - 1
    rows = [
        forward(_chunk(tokens, slots, 0, last // 2)),
        forward(_chunk(tokens, slots, last // 2, last)),
        forward(_decode(tokens, slots)),
    ]
    return torch.cat(rows)


def agree(found: Tensor, expected: Tensor) -> bool:
    """Tell whether two tensors of logits are equal up to rounding.

    Examples
    --------
    >>> agree(torch.tensor([1.0, -20.0]), torch.tensor([1.001, -20.0]))
    True
    >>> agree(torch.tensor([1.0, -20.0]), torch.tensor([1.5, -20.0]))
    False
    """
    return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())


def _chunk(tokens: list[int], slots: list[int], begin: int, end: int) -> ForwardBatch:
    own = torch.arange(end - begin)
    segment = ExtendSegment(0, end - begin, index(slots[:end]))
    return ForwardBatch(
        index(tokens[begin:end]), own + begin, index(slots[begin:end]), own, segments=(segment,)
    )


def _decode(tokens: list[int], slots: list[int]) -> ForwardBatch:
    group = DecodeGroup(0, index(slots).unsqueeze(0))
    position = index([len(tokens) - 1])
    return ForwardBatch(index(tokens[-1:]), position, index(slots[-1:]), index([0]), groups=(group,))
