"""Lists of token ids and of the numbers of an embedding."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nbruntime.display.cards import Card, CardMixin, Details
from nbruntime.display.html import escape, shortened

FIRST = 12
"""Numbers that a longer list shows."""


class Numbers(CardMixin, list[Any]):
    """A list of numbers: a notebook shows the beginning of a long one, and `print` all of it.

    Examples
    --------
    >>> print(Numbers(range(100))._card().text())
    100 numbers
      0 1 2 3 4 5 6 7 8 9 10 11 …
    """

    def _card(self) -> Card:
        first = " ".join(f"{each:.6g}" if isinstance(each, float) else str(each) for each in self[:FIRST])
        first = shortened(f"{first} …", 200)
        everything = Details("all", text=", ".join(map(str, self)))
        return Card(
            f"{len(self):,} numbers",
            plain=f"  {first}",
            body=f"<div>{escape(first)}</div>",
            details=[everything],
        )

    def _repr_mimebundle_(
        self, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> dict[str, Any]:
        return super()._repr_mimebundle_(include, exclude) if len(self) > 2 * FIRST else {}


def as_numbers(value: list[Any]) -> list[Any]:
    """Return a list of numbers, or a list of such lists, as `Numbers`."""
    nested = bool(value) and all(isinstance(each, list) for each in value)
    return [Numbers(each) for each in value] if nested else Numbers(value)
