"""Progress reports of downloads and conversions."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[str, float | None, float | None, str], None]
"""Called with the phase ("downloading", "converting", "waiting"), the amount done, the total and their unit.

Done and total are None if they are unknown.
"""


def silent(phase: str, done: float | None, total: float | None, unit: str) -> None:
    """Report nothing."""
