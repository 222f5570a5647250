"""Classes by name: a reload makes each class anew, and the objects from before are still of the old one."""

from __future__ import annotations


def is_of(value: object, *classes: str) -> bool:
    """Return True if a value is an instance of one of the classes, also of one from before a reload.

    Examples
    --------
    >>> is_of(True, "builtins.int"), is_of(1, "builtins.str")
    (True, False)
    """
    return any(f"{each.__module__}.{each.__qualname__}" in classes for each in type(value).__mro__)
