"""Limits on how often a view draws."""

from __future__ import annotations

from nbruntime.errors import ArgumentValueError

DRAWS_PER_SECOND = 10.0
"""Default maximum."""

DRAW_LIMITS = (0.5, 20.0)
"""Smallest and largest maximum that an argument can set."""


def check_range(name: str, value: float, limits: tuple[float, float]) -> None:
    """Raise ArgumentValueError if a number is outside its limits (inclusive)."""
    least, most = limits
    if not (isinstance(value, int | float) and least <= value <= most):
        raise ArgumentValueError(f"{name} must be between {least:g} and {most:g}, not {value!r}")
