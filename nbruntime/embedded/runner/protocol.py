"""What the server needs of a model: its facts, and forward passes over a KV cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from nbruntime.embedded.runner.batch import ForwardBatch


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

    def warm_up(self) -> None:
        """Run a few tokens, so that a model that cannot be served fails at start; clears the cache."""

    def forward(self, batch: ForwardBatch) -> Tensor:
        """Run one step and return logits, float32, shape (rows, vocabulary)."""

    def embed(self, batch: ForwardBatch) -> Tensor:
        """Run one step and return the last hidden states of the rows, float32, shape (rows, hidden)."""
