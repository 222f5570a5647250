"""The list of generations that a batch returns, or one prompt with ``n > 1``."""

from __future__ import annotations

from nbruntime.display.cards import Card, CardMixin
from nbruntime.generation.cards import generations_card
from nbruntime.generation.record import Generation


class Generations(CardMixin, list[Generation]):
    """A list of generations that shows itself as a table; its `str` is their texts, one below the other.

    Examples
    --------
    >>> Generations([Generation("4"), Generation("four")])
    2 generations
      [0] 4
      [1] four
      new tokens 0
    """

    def __str__(self) -> str:
        return "\n".join(each.text for each in self)

    def __repr__(self) -> str:
        return generations_card(self).text()

    def _card(self) -> Card:
        return generations_card(self)
