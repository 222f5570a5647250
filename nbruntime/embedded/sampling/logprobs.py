"""Log-probabilities of the tokens of prompts and answers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Entry = tuple[float | None, int]
"""Log-probability and token id; the first token of a prompt has none."""


@dataclass(frozen=True, slots=True)
class LogprobRequest:
    """Which log-probabilities a request wants."""

    start: int  # first prompt token to report; the prompt's length reports none
    top: int = 0  # most likely tokens per position
    token_ids: tuple[int, ...] = ()  # tokens to report at every position
    with_text: bool = False


class LogprobRecord:
    """Log-probabilities of consecutive positions, added step by step."""

    def __init__(self) -> None:
        self.tokens: list[Entry] = []
        self.top: list[list[Entry] | None] = []  # the most likely tokens at each position
        self.chosen: list[list[Entry] | None] = []  # the requested tokens

    def add_unknown(self, token_id: int) -> None:
        """Add a token without a predecessor, which has no log-probability."""
        self.tokens.append((None, token_id))
        self.top.append(None)
        self.chosen.append(None)

    def add(self, logprobs: Tensor, token_ids: list[int], wanted: LogprobRequest) -> None:
        """Add positions from `logprobs`, shape (positions, vocabulary).

        `token_ids` are the tokens at these positions; it is empty for a position without a token.
        """
        rows = torch.arange(len(token_ids))
        values = logprobs[rows, torch.tensor(token_ids, dtype=torch.long)].tolist()
        self.tokens.extend(zip(values, token_ids, strict=True))
        if wanted.top:
            top_values, top_ids = logprobs.topk(wanted.top, dim=-1)
            for line, ids in zip(top_values.tolist(), top_ids.tolist(), strict=True):
                self.top.append(list(zip(line, ids, strict=True)))
        if wanted.token_ids:
            ids = list(wanted.token_ids)
            for line in logprobs[:, ids].tolist():
                self.chosen.append(list(zip(line, ids, strict=True)))
