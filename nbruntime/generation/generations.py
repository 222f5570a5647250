"""Several generations: what a batch gives, or one prompt with ``n > 1``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nbruntime.generation.cards import generations_card
from nbruntime.generation.record import Generation


class Generations(list[Generation]):
    """A list of generations that shows itself as a table.

    Examples
    --------
    >>> answers = Generations([Generation("4"), Generation("four")])
    >>> answers == [Generation("4"), Generation("four")]
    True
    >>> answers
    2 generations
      [0] 4
      [1] four
      new tokens 0
    """

    def __repr__(self) -> str:
        return generations_card(self).text()

    def _repr_mimebundle_(
        self, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> dict[str, Any]:
        return generations_card(self).mimebundle(include, exclude)
