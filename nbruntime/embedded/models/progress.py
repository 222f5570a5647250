"""How the long steps of getting a model say how far they are."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[str, float | None, float | None, str], None]
"""Called with the phase ("downloading", "converting", "waiting"), what is done, the total and their unit.

Done and total are None where the phase has no measure.
"""


def silent(phase: str, done: float | None, total: float | None, unit: str) -> None:
    """Report nothing."""
