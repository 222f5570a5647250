"""How often a view may draw."""

from __future__ import annotations

from nbruntime.errors import ArgumentValueError

DRAWS_PER_SECOND = 10.0
"""How often what changes is drawn at most; reading is slower."""

DRAW_LIMITS = (0.5, 20.0)
"""The least and the most that may be asked for instead."""


def check_range(name: str, value: float, limits: tuple[float, float]) -> None:
    """Raise ArgumentValueError if a number is not within its limits, which are included."""
    least, most = limits
    if not (isinstance(value, int | float) and least <= value <= most):
        raise ArgumentValueError(f"{name} must be between {least:g} and {most:g}, not {value!r}")
