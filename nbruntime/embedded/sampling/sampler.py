"""Sampling of the next token of each request.

The order is SGLang's (``srt/layers/sampler.py``): bias, penalties and grammar change the logits, the
temperature scales them, log-probabilities are taken, then top-k, top-p and min-p filter the candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nbruntime.embedded.sampling.grammar import Grammar, GrammarMatcher
from nbruntime.protocol.sampling import SamplingParams

_FIRST_CANDIDATES = 1024
"""Nucleus sampling sorts this many tokens first, and all of them only if their mass is below top-p."""

_HOTTEST = torch.finfo(torch.float32).max
"""Largest temperature: float32 has no larger number."""


class SamplingState:
    """State of the sampling of one request.

    `vocab_size` is the width of the logits; `stop_ids` end the answer, and are masked until
    ``min_new_tokens``.
    """

    def __init__(
        self,
        params: SamplingParams,
        vocab_size: int,
        stop_ids: frozenset[int] = frozenset(),
        grammar: Grammar | None = None,
    ) -> None:
        self.params = params
        self.generated = 0
        self._vocab_size = vocab_size
        self._grammar = grammar
        # A model that was cut or extended may name end tokens that it has no logits for.
        self._ends = frozenset(token_id for token_id in stop_ids if 0 <= token_id < vocab_size)
        self._bias: tuple[Tensor, Tensor] | None = None
        if params.logit_bias:
            ids, biases = zip(*params.logit_bias.items(), strict=True)
            self._bias = torch.tensor(ids), torch.tensor(biases, dtype=torch.float32)

    # Large buffers are made at their first use: thousands of requests may be waiting.

    @cached_property
    def matcher(self) -> GrammarMatcher | None:
        """Position of the answer in its grammar; None without a grammar."""
        return None if self._grammar is None else self._grammar()

    @cached_property
    def generator(self) -> torch.Generator | None:
        """Random generator of a request with a seed of its own."""
        seed = self.params.sampling_seed
        return None if seed is None else torch.Generator().manual_seed(seed)

    @cached_property
    def _counts(self) -> Tensor | None:
        params = self.params
        penalised = params.frequency_penalty or params.presence_penalty or params.repetition_penalty != 1
        return torch.zeros(self._vocab_size) if penalised else None

    def forget(self) -> None:
        """Free large buffers once the request has ended."""
        for name in ("matcher", "generator", "_counts"):
            self.__dict__.pop(name, None)

    def shape(self, logits: Tensor) -> None:
        """Apply penalties, bias, grammar and minimum length to one row of logits, in place."""
        params = self.params
        if self._counts is not None:
            seen = self._counts > 0
            logits -= params.frequency_penalty * self._counts + params.presence_penalty * seen
            scaled = torch.where(
                logits > 0, logits / params.repetition_penalty, logits * params.repetition_penalty
            )
            torch.where(seen, scaled, logits, out=logits)
        if self._bias is not None:
            logits.index_add_(0, *self._bias)
        if self.matcher is not None:
            self.matcher.mask(logits)
        if self.generated < params.min_new_tokens and self._ends:
            self._forbid_end(logits)

    def _forbid_end(self, logits: Tensor) -> None:
        """Mask the end tokens, unless the grammar allows nothing else."""
        places = torch.tensor(sorted(self._ends))
        ends = logits[places]
        logits.index_fill_(0, places, float("-inf"))
        if self.matcher is not None and logits.max() == float("-inf"):
            logits.index_copy_(0, places, ends)

    def ends_with(self, token_id: int) -> bool:
        """Tell whether the answer ends with a token, which was accepted."""
        # A finished grammar allows no further token, so its end token counts even with ignore_eos.
        heeded = not self.params.ignore_eos or (self.matcher is not None and self.matcher.finished)
        return heeded and token_id in self._ends

    def accept(self, token_id: int) -> None:
        """Record a chosen token."""
        self.generated += 1
        if self._counts is not None:
            self._counts[token_id] += 1
        if self.matcher is not None:
            self.matcher.accept(token_id)


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen tokens, the largest logits, and the log-probabilities before top-k, top-p and min-p."""

    token_ids: list[int]
    largest: list[float]  # of each row; not finite if no token can be chosen
    logprobs: Tensor | None  # if wanted


class Sampler:
    """Chooses tokens; `seed` makes requests without their own seed repeatable if they come one by one."""

    def __init__(self, seed: int | None = None) -> None:
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    @torch.inference_mode()
    def choose(self, logits: Tensor, states: Sequence[SamplingState], *, logprobs: bool) -> Choice:
        """Choose the next token of each row; `logprobs` is True if any row wants log-probabilities.

        `logits` are float32, (rows, vocabulary), after `SamplingState.shape`; they are scaled in place.
        """
        sampled = [row for row, state in enumerate(states) if not state.params.greedy]
        if sampled:
            temperatures = torch.ones(len(states), 1)
            for row in sampled:
                temperatures[row] = min(float(states[row].params.temperature), _HOTTEST)
            logits.div_(temperatures)
        largest, most_likely = logits.max(dim=-1)
        chosen = most_likely.tolist()
        logprob_rows = torch.log_softmax(logits, dim=-1) if logprobs else None
        for row in sampled:
            state = states[row]
            chosen[row] = _draw(logits[row], state.params, state.generator or self._generator)
        return Choice(chosen, largest.tolist(), logprob_rows)


def _draw(logits: Tensor, params: SamplingParams, generator: torch.Generator) -> int:
    """Sample one token from one row of scaled logits."""
    if params.top_p >= 1 and params.top_k >= len(logits):
        probabilities = logits.softmax(dim=-1)
        if params.min_p > 0:
            probabilities[probabilities < params.min_p * probabilities.max()] = 0
        return _pick(probabilities, generator)
    probabilities, token_ids = _candidates(logits, params)
    return int(token_ids[_pick(probabilities, generator)])


def _candidates(logits: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """Give probabilities and ids of the tokens after top-k, top-p and min-p, most likely first."""
    count = min(params.top_k, len(logits))
    total = logits.logsumexp(dim=-1)
    if params.top_p < 1 and count > _FIRST_CANDIDATES:
        values, token_ids = logits.topk(_FIRST_CANDIDATES)
        if (values - total).exp().sum() < params.top_p:
            values, token_ids = logits.topk(count)
    else:
        values, token_ids = logits.topk(count)
    probabilities = (values - total).exp()
    if params.top_p < 1:
        # A token stays as long as those before it have not reached the nucleus; the first always stays.
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities = torch.where(before <= params.top_p, probabilities, 0)
    if params.min_p > 0:
        probabilities = torch.where(probabilities >= params.min_p * probabilities[0], probabilities, 0)
    return probabilities, token_ids


def _pick(weights: Tensor, generator: torch.Generator) -> int:
    """Draw an index in proportion to its weight, as the first arrival of exponential clocks."""
    clocks = torch.empty_like(weights).exponential_(generator=generator)
    return int((weights / clocks).argmax())
