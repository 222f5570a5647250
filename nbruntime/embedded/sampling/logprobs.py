"""Log-probabilities as answers carry them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Entry = tuple[float | None, int]
"""Log-probability and token id; the first token of a prompt has none."""


@dataclass(frozen=True, slots=True)
class LogprobRequest:
    """Which log-probabilities a request wants.

    Parameters
    ----------
    start : int
        First prompt token to report, counted from 0; the prompt's length reports none.
    top : int
        Number of most likely alternatives per position.
    token_ids : tuple of int
        Tokens to report at every position.
    with_text : bool
        Whether entries carry the token's text.
    """

    start: int
    top: int = 0
    token_ids: tuple[int, ...] = ()
    with_text: bool = False


class LogprobRecord:
    """Log-probabilities of a run of positions, gathered step by step.

    Attributes
    ----------
    tokens : list of Entry
        The tokens that stand there.
    top, chosen : list of list of Entry, or None per position
        The most likely ones, and those asked for.
    """

    def __init__(self) -> None:
        self.tokens: list[Entry] = []
        self.top: list[list[Entry] | None] = []
        self.chosen: list[list[Entry] | None] = []

    def add_unknown(self, token_id: int) -> None:
        """Record a token that nothing precedes."""
        self.tokens.append((None, token_id))
        self.top.append(None)
        self.chosen.append(None)

    def add(self, logprobs: Tensor, token_ids: list[int], wanted: LogprobRequest) -> None:
        """Record positions.

        Parameters
        ----------
        logprobs : Tensor, shape (positions, vocabulary)
        token_ids : list of int
            The tokens that stand there; none for a position that has got none.
        wanted : LogprobRequest
            What else to keep of each position.
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
