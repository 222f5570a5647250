"""Numbers of tokens of prompts and answers: fixed, uniform, or drawn from the caller's distribution."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from nbruntime.errors import ArgumentTypeError, ArgumentValueError

_HINT = (
    "Give a number such as 256, a range such as (100, 500), an array of lengths to draw from, "
    "or a function that takes a numpy Generator and returns a length."
)


MOST_TOKENS = 10_000_000
"""More than any model takes."""


class _Distribution(Protocol):
    """A frozen distribution of scipy.stats."""

    def rvs(self, *, size: int, random_state: np.random.Generator) -> Any: ...


Lengths = int | tuple[int, int] | Iterable[int] | Callable[[np.random.Generator], float] | _Distribution
"""What `prompt_tokens` and `output_tokens` can be."""


class LengthSampler:
    """Draws numbers of tokens.

    Parameters
    ----------
    name : str
        Name of the argument, for errors.
    given : Lengths
        A number; a tuple of the least and the greatest, both included, for equal chances; a list or array of
        lengths to draw from; a function that takes a ``numpy.random.Generator``; or a distribution with
        ``rvs``, as in ``scipy.stats``. Fractions are rounded, and 1 is the least length.

    Examples
    --------
    >>> LengthSampler("prompt_tokens", (2, 4)).draw(np.random.default_rng(0), 5)
    [4, 3, 3, 2, 2]
    """

    def __init__(self, name: str, given: Any) -> None:
        self._name = name
        self._given = given
        self._draw = self._reader(given)

    def draw(self, random: np.random.Generator, count: int) -> list[int]:
        """Draw lengths; a distribution that gives something else raises an ArgumentValueError."""
        try:
            drawn = np.asarray(self._draw(random, count), dtype=float)
        except (TypeError, ValueError) as error:
            raise ArgumentTypeError(
                f"{self._name} gives something that is not a number: {error}", where=self._name, hint=_HINT
            ) from error
        if drawn.shape != (count,) or not (np.abs(drawn) <= MOST_TOKENS).all():
            raise ArgumentValueError(
                f"{self._name} does not give numbers of at most {MOST_TOKENS:,}, one for each request",
                where=self._name,
                hint=_HINT,
            )
        lengths: list[int] = np.maximum(np.rint(drawn), 1).astype(int).tolist()
        return lengths

    @property
    def least(self) -> int | None:
        """The least length, where it is known."""
        if isinstance(self._given, numbers.Integral):
            return int(self._given)
        return int(self._given[0]) if isinstance(self._given, tuple) else None

    def __str__(self) -> str:
        if isinstance(self._given, tuple):
            return f"{self._given[0]} to {self._given[1]}"
        if isinstance(self._given, numbers.Integral):
            return str(self._given)
        return f"drawn from {type(self._given).__name__}"

    def _reader(self, given: Any) -> Callable[[np.random.Generator, int], Any]:
        match given:
            case bool() | str() | bytes():
                pass
            case numbers.Integral():
                self._check(int(given))
                return lambda _, count: np.full(count, int(given))
            case (numbers.Integral(), numbers.Integral()) if isinstance(given, tuple):
                least, most = int(given[0]), int(given[1])
                self._check(least)
                self._check(most)
                if most < least:
                    raise ArgumentValueError(
                        f"The range of {self._name} goes from {least} down to {most}",
                        where=self._name,
                        hint=f"Write ({most}, {least}).",
                    )
                return lambda random, count: random.integers(least, most, size=count, endpoint=True)
            case _ if hasattr(given, "rvs"):
                return lambda random, count: given.rvs(size=count, random_state=random)
            case _ if callable(given):
                return lambda random, count: [given(random) for _ in range(count)]
            case _ if isinstance(given, Iterable) and not isinstance(given, Mapping):
                choices = np.asarray(list(given))
                if choices.ndim == 1 and len(choices) and choices.dtype.kind in "iuf":
                    self._check(choices.min())
                    self._check(choices.max())
                    return lambda random, count: random.choice(choices, size=count)
        raise ArgumentTypeError(
            f"{self._name} is not a number of tokens or a distribution: {type(given).__name__}",
            where=self._name,
            hint=_HINT,
        )

    def _check(self, length: float) -> None:
        if not length >= 1:
            raise ArgumentValueError(f"{self._name} is {length}", where=self._name, hint="The least is 1.")
        if length > MOST_TOKENS:
            hint = f"At most {MOST_TOKENS:,}."
            raise ArgumentValueError(f"{self._name} is {length:,}", where=self._name, hint=hint)
