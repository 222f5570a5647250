"""The tokens of one forward pass, as tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ExtendSegment:
    """A run of prompt tokens of one request, in an extend (prefill) batch.

    Parameters
    ----------
    start, length : int
        Where its tokens lie in the batch.
    context : Tensor of int64, shape (context length,)
        KV-cache slots of everything these tokens may attend to: the earlier tokens of the request,
        then these tokens themselves.
    """

    start: int
    length: int
    context: Tensor


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Requests of a decode batch whose contexts are about as long.

    Parameters
    ----------
    start : int
        Where their tokens begin in the batch; one follows the other.
    contexts : Tensor of int64, shape (requests, longest context)
        KV-cache slots of each request, padded on the right with slot 0.
    mask : Tensor of bool, shape (requests, 1, 1, longest context), or None
        True where `contexts` is not padding; None when nothing is padded.
    """

    start: int
    contexts: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """The tokens of one step.

    Either an extend batch, whose tokens are runs of prompts, or a decode batch, with one token per
    request.

    Parameters
    ----------
    input_ids, positions, slots : Tensor of int64, shape (tokens,)
        Token ids, their positions in their requests, and the KV-cache slots to write them to.
    logit_rows : Tensor of int64, shape (rows,)
        The tokens whose logits are wanted.
    segments : tuple of ExtendSegment
        The runs of an extend batch; empty for a decode batch.
    groups : tuple of DecodeGroup
        The tokens of a decode batch, in the batch's order; empty for an extend batch.
    """

    input_ids: Tensor
    positions: Tensor
    slots: Tensor
    logit_rows: Tensor
    segments: tuple[ExtendSegment, ...] = ()
    groups: tuple[DecodeGroup, ...] = ()


def index(values: list[int]) -> Tensor:
    """Make an index tensor."""
    return torch.tensor(values, dtype=torch.int64)
