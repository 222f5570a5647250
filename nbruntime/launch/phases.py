"""How far a server is on its way to being ready."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["FETCHING", "Phase", "phase_of"]

FETCHING = frozenset({"downloading", "converting", "waiting"})
"""Phases that happen once per model and take as long as the network does: no launch time-out counts them."""

_LINE = re.compile(
    r"^phase: (?P<name>[A-Za-z][A-Za-z -]*?)"
    r"(?: (?P<done>\d+(?:\.\d+)?)(?:/(?P<total>\d+(?:\.\d+)?))?(?: (?P<unit>\S+))?)?\s*$"
)


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase of a launch, with its progress where that is known.

    Parameters
    ----------
    name : str
        ``starting``, ``downloading``, ``converting``, ``loading weights``, ``warming up``, ``ready``.
    done, total : float or None
        Progress, in `unit`; the total may be unknown.
    unit : str
        Such as ``MB``; may be empty.

    Examples
    --------
    >>> print(Phase("downloading", 12.1, 92.9, "MB"))
    downloading 12.1/92.9 MB
    """

    name: str
    done: float | None = None
    total: float | None = None
    unit: str = ""

    def __str__(self) -> str:
        if self.done is None:
            return self.name
        total = "" if self.total is None else f"/{self.total:g}"
        return f"{self.name} {self.done:g}{total} {self.unit}".rstrip()


def phase_of(line: str) -> Phase | None:
    """Read a line in which the embedded server says how far it is.

    Parameters
    ----------
    line : str
        A line of the server's output.

    Returns
    -------
    Phase or None
        None if the line says nothing of the kind.

    Examples
    --------
    >>> phase_of("phase: downloading 12.1/92.9 MB")
    Phase(name='downloading', done=12.1, total=92.9, unit='MB')
    >>> phase_of("phase: loading weights").name
    'loading weights'
    """
    match = _LINE.match(line)
    if match is None:
        return None
    done, total = match["done"], match["total"]
    return Phase(
        match["name"],
        None if done is None else float(done),
        None if total is None else float(total),
        match["unit"] or "",
    )
