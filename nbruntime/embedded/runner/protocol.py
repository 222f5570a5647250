"""What the server needs of a model: its facts, and forward passes over a KV cache."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from nbruntime.embedded.runner.batch import ForwardBatch


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Properties of a model that the server needs."""

    architectures: tuple[str, ...]
    model_type: str
    vocab_size: int  # width of the logits
    context_length: int  # longest sequence the model was made for, in tokens
    eos_token_ids: frozenset[int]  # tokens that end an answer
    num_layers: int
    num_kv_heads: int
    head_dim: int
    precision: str  # what the linear layers compute in
    weight_bytes: int
    kv_bytes_per_token: int  # in the KV cache

    def foreign_token(self, token_ids: Iterable[int]) -> int | None:
        """Return the first id outside the vocabulary; None if there is none."""
        return next((token_id for token_id in token_ids if not 0 <= token_id < self.vocab_size), None)


class ModelRunner(Protocol):
    """A model with its KV cache. Any implementation with these members can replace the present one."""

    facts: ModelFacts

    def allocate_cache(self, num_slots: int) -> None:
        """Allocate keys and values of `num_slots` tokens, in slots 1 to `num_slots`; clears the cache."""

    def warm_up(self) -> None:
        """Run a few tokens, so that an unsupported model fails at start; clears the cache."""

    def forward(self, batch: ForwardBatch) -> Tensor:
        """Run one step and return logits, float32, shape (rows, vocabulary)."""

    def embed(self, batch: ForwardBatch) -> Tensor:
        """Run one step and return the last hidden states of the rows, float32, shape (rows, hidden)."""
