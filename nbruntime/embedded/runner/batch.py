"""The tokens of one forward pass, as tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ExtendSegment:
    """A run of prompt tokens of one request in an extend (prefill) batch."""

    start: int  # where the run starts in the batch
    length: int
    context: Tensor  # int64, (context length,): slots of the request's tokens up to the end of the run


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Requests of a decode batch with contexts of similar length."""

    start: int  # where the requests' tokens start in the batch, one each
    contexts: Tensor  # int64, (requests, longest context): slots, padded on the right with 0
    mask: Tensor | None = None  # bool, (requests, 1, 1, longest context): False for padding; None without any


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """The tokens of one step: an extend batch of prompt runs, or a decode batch of one token per request."""

    input_ids: Tensor  # int64, (tokens,), as the next two
    positions: Tensor  # in their requests
    slots: Tensor  # to write keys and values to
    logit_rows: Tensor  # int64, (rows,): tokens whose logits are wanted
    segments: tuple[ExtendSegment, ...] = ()  # of an extend batch
    groups: tuple[DecodeGroup, ...] = ()  # of a decode batch, in order


def index(values: list[int]) -> Tensor:
    """Make an index tensor."""
    return torch.tensor(values, dtype=torch.int64)
