"""Follows an answer through its grammar."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from llguidance import LLMatcher
from torch import Tensor


class GrammarError(Exception):
    """The answer has left its grammar, or the grammar is too complex to follow."""


class GrammarMatcher:
    """Follows one answer through its grammar."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._bits = np.zeros((vocab_size + 31) // 32, dtype=np.int32)

    def mask(self, logits: Tensor) -> None:
        """Set the logits of forbidden next tokens to minus infinity, in place."""
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._check()
        allowed = np.unpackbits(self._bits.view(np.uint8), bitorder="little")[: logits.shape[-1]]
        logits.masked_fill_(torch.from_numpy(allowed) == 0, float("-inf"))

    def accept(self, token_id: int) -> None:
        """Advance by one token."""
        if not self.finished:
            self._matcher.consume_token(token_id)
            self._check()

    @property
    def finished(self) -> bool:
        """Whether the grammar allows no further token."""
        stopped: bool = self._matcher.is_stopped()
        return stopped

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = self._matcher.get_error().partition("\n")[0]  # then follows the parser's state
            if reason == "NoExtensionBias":
                reason = "no text goes on from here"
            raise GrammarError(f"The answer cannot follow its grammar: {reason}")


Grammar = Callable[[], GrammarMatcher]
"""A compiled grammar: makes a matcher at its beginning."""
