"""What one forward pass is given and what it gives back: the seam between scheduler and model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

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


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the rest of the server needs to know of a model.

    Parameters
    ----------
    architectures : tuple of str
        As in the model's ``config.json``.
    model_type : str
        As in the model's ``config.json``.
    vocab_size : int
        Width of the logits.
    context_length : int
        Longest sequence the model was made for, in tokens.
    eos_token_ids : frozenset of int
        Tokens that end an answer.
    num_layers, num_kv_heads, head_dim : int
        Shape of the KV cache.
    precision : str
        What the linear layers compute in.
    weight_bytes, kv_bytes_per_token : int
        Memory of the weights, and of the KV cache per token.
    """

    architectures: tuple[str, ...]
    model_type: str
    vocab_size: int
    context_length: int
    eos_token_ids: frozenset[int]
    num_layers: int
    num_kv_heads: int
    head_dim: int
    precision: str
    weight_bytes: int
    kv_bytes_per_token: int


class ModelRunner(Protocol):
    """A model with its KV cache: all that the engine asks of one.

    Another implementation (llama.cpp, OpenVINO, a compiled graph) takes its place by having these members.
    """

    facts: ModelFacts

    def allocate_cache(self, num_slots: int) -> None:
        """Make room for the keys and values of `num_slots` tokens, in slots 1 to `num_slots`."""

    def forward(self, batch: ForwardBatch) -> Tensor:
        """Run one step and return logits, float32, shape (rows, vocabulary)."""

    def embed(self, batch: ForwardBatch) -> Tensor:
        """Run one step and return the last hidden states of the rows, float32, shape (rows, hidden)."""


class LoadModel(Protocol):
    """Makes a runner from a model folder."""

    def __call__(self, folder: Path, *, dtype: str, context_length: int | None) -> ModelRunner:
        """Load the weights in `folder`, if the model takes so many tokens."""


def index(values: list[int]) -> Tensor:
    """Make an index tensor."""
    return torch.tensor(values, dtype=torch.int64)
