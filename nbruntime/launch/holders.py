"""Where a notebook holds an object: variables, IPython's results, the traceback of the last error."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import MethodType

__all__ = ["PLACES", "holders_of"]

PLACES: dict[str, Mapping[str, object]] = {}
"""Further places by what they are called, such as the servers of the magics by their names."""

MOST_ENTRIES = 1000
"""Larger containers are not searched."""


def holders_of(objects: Iterable[object]) -> list[str]:
    """Return the places that hold one of the objects, as a user writes them: ``runtime``, ``Out[3]``.

    Lists, tuples, dicts, sets and the attributes of objects of the notebook's own classes are searched, but
    nothing inside of these.
    """
    wanted = {id(each) for each in objects}
    if not wanted:
        return []
    main = vars(sys.modules["__main__"])
    variables = {"_": getattr(builtins, "_", None), **main}
    found = [place for name, value in variables.items() for place in _places(name, value, wanted)]
    found.sort(key=lambda place: "[" in place)  # variables first
    if "Out" in main:  # IPython has its results in variables as well
        found = [place for place in found if not place.startswith("_oh[")]
        if any(place.startswith("Out[") for place in found):
            found = [place for place in found if not place.startswith("_")]
    for place, named in PLACES.items():
        found += [f"{place} {name}" for name, value in list(named.items()) if id(value) in wanted]
    if any(id(value) in wanted for value in _values_of_last_error(main)):
        found.append("the traceback of the last error")
    return found


def _places(name: str, value: object, wanted: set[int]) -> Iterator[str]:
    if id(value) in wanted or (type(value) is MethodType and id(value.__self__) in wanted):
        yield name
    elif type(value) in (list, tuple, dict) and len(value) <= MOST_ENTRIES:  # type: ignore[arg-type]
        entries = list(value.items() if isinstance(value, dict) else enumerate(value))  # type: ignore[arg-type]
        yield from (f"{name}[{key!r}]" for key, entry in entries if id(entry) in wanted)
    elif type(value) in (set, frozenset) and any(id(entry) in wanted for entry in list(value)):  # type: ignore[call-overload]
        yield name
    elif type(value).__module__ == "__main__" and hasattr(value, "__dict__"):
        yield from (f"{name}.{key}" for key, entry in list(vars(value).items()) if id(entry) in wanted)


def _values_of_last_error(main: Mapping[str, object]) -> Iterator[object]:
    error = getattr(sys, "last_value", None)
    step = None if error is None else error.__traceback__
    while step is not None:
        if step.tb_frame.f_locals is not main:  # the cell itself
            yield from list(step.tb_frame.f_locals.values())
        step = step.tb_next
