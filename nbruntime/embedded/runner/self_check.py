"""A check of a model at start: over our cache it must give the logits that it gives by itself.

transformers brings hundreds of architectures. Some do more in attention than a back end is told of, some keep
a state of their own between tokens, and nothing but their numbers shows it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nbruntime.embedded.runner.batch import DecodeGroup, ExtendSegment, ForwardBatch, index

TOKENS = 12
"""Length of the check: two chunks of a prompt and a decode step."""

TOLERANCE = 1e-3
"""Largest difference of logits, as a part of the largest logit; other orders of sums make about 1e-5."""


def run_in_steps(forward: Callable[[ForwardBatch], Tensor], tokens: list[int]) -> Tensor:
    """Run a sequence as the engine would: a prompt in two chunks, then a decode step.

    Parameters
    ----------
    forward : callable
        Runs one step over a cache that holds the sequence.
    tokens : list of int
        At least three.

    Returns
    -------
    Tensor of float32, shape (tokens, vocabulary)
    """
    slots = list(range(len(tokens), 0, -1))
    last = len(tokens) - 1
    rows = [
        forward(_chunk(tokens, slots, 0, last // 2)),
        forward(_chunk(tokens, slots, last // 2, last)),
        forward(_decode(tokens, slots)),
    ]
    return torch.cat(rows)


def agree(found: Tensor, expected: Tensor) -> bool:
    """Tell whether two tensors of logits are the same but for rounding.

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
