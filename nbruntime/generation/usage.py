"""Token counts and times of many generations together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nbruntime.display.numbers import duration
from nbruntime.errors import ArgumentTypeError
from nbruntime.generation.record import Generation


@dataclass(frozen=True, slots=True, repr=False)
class Usage:
    """Sums over generations; two of them can be added.

    Parameters
    ----------
    generations : int
        Number of answers.
    prompt_tokens : int
        Prompt tokens; every answer counts its own.
    cached_tokens : int
        Prompt tokens that the server had in its cache.
    completion_tokens : int
        Generated tokens.
    seconds : float
        From sending to the end, measured by the client, else by the server; concurrent answers count each.

    Examples
    --------
    >>> Usage(1, 5, 4, 8, 0.5) + Usage(1, 7, 0, 2, 0.25)
    Usage: 2 generations
      12 prompt tokens, 4 cached + 10 new = 22 tokens; 750 ms
    """

    generations: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    @property
    def total_tokens(self) -> int:
        """Prompt and generated tokens together."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        if not isinstance(other, Usage):
            return NotImplemented
        return Usage(
            self.generations + other.generations,
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.completion_tokens + other.completion_tokens,
            self.seconds + other.seconds,
        )

    def __repr__(self) -> str:
        noun = "generation" if self.generations == 1 else "generations"
        return (
            f"Usage: {self.generations} {noun}\n"
            f"  {self.prompt_tokens} prompt tokens, {self.cached_tokens} cached"
            f" + {self.completion_tokens} new = {self.total_tokens} tokens; {duration(self.seconds)}"
        )


def usage(generations: Generation | Iterable[Any]) -> Usage:
    """Sum up generations.

    Parameters
    ----------
    generations : Generation, or iterable of them
        Also the lists that batches return, and lists of such lists.

    Raises
    ------
    ArgumentTypeError
        If an element is not a generation.

    Examples
    --------
    >>> answer = Generation("Hi", [1, 2], {"prompt_tokens": 5, "completion_tokens": 2, "e2e_latency": 0.5})
    >>> usage([answer, [answer, answer]]).completion_tokens
    6
    """
    if isinstance(generations, Generation):
        took = generations.timings.total
        return Usage(
            1,
            generations.prompt_tokens,
            generations.cached_tokens,
            generations.completion_tokens,
            (generations.server_latency if took is None else took) or 0.0,
        )
    if isinstance(generations, str) or not isinstance(generations, Iterable):
        raise ArgumentTypeError(
            f"Not a generation: {type(generations).__name__}",
            where="generations",
            hint="Pass what complete() and result() return.",
        )
    total = Usage()
    for each in generations:
        total = total + usage(each)
    return total
