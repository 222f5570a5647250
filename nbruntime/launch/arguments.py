"""The arguments of `Runtime` apart from the server's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any

from nbruntime.endpoint.base_client import checked_key
from nbruntime.errors import ArgumentTypeError, ArgumentValueError
from nbruntime.launch.phases import Phases

__all__ = ["AUTO_KEY", "OWN_ARGUMENTS", "check_own_arguments"]

AUTO_KEY = "auto"
"""The value of ``api_key`` for which the launcher makes a key."""

OWN_ARGUMENTS: dict[str, tuple[type, ...]] = {
    "model_path": (str, os.PathLike, NoneType),
    "log_level": (str,),
    "launch_timeout": (int, float),
    "engine": (str,),
    "python": (str, os.PathLike, NoneType),
    "env": (Mapping, NoneType),
    "port": (int, NoneType),
    "host": (str,),
    "api_key": (str, NoneType),
    "progress": (Callable, Phases, NoneType),  # type: ignore[dict-item]
    "keep_alive": (bool,),
    "name": (str, NoneType),
    "reuse": (bool,),
    "replace": (bool,),
}
"""Allowed types by name."""


def check_own_arguments(arguments: Mapping[str, Any]) -> None:
    """Check the arguments of a launch; others are ignored.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        If one has a wrong type, or a variable is not valid in an environment, or the key in a header.
    """
    for name, types in OWN_ARGUMENTS.items():
        value = arguments.get(name)
        if name in arguments and not _fits(name, value, types):
            said = " or ".join("None" if one is NoneType else one.__name__ for one in types)
            # Without its value, which may be a key.
            raise ArgumentTypeError(f"{name} must be {said}, not {type(value).__name__}")
    for name, value in (arguments.get("env") or {}).items():
        _check_variable(name, value)
    checked_key(arguments.get("api_key"))


def _fits(name: str, value: Any, types: tuple[type, ...]) -> bool:
    if isinstance(value, bool):  # which is an int, too
        return bool in types or (name == "progress" and not value)
    return isinstance(value, types)


def _check_variable(name: Any, value: Any) -> None:
    if not isinstance(name, str) or not isinstance(value, str | None):
        raise ArgumentTypeError(
            f"env maps names to str or None, and {name!r} is mapped to {type(value).__name__}"
        )
    if not name or "=" in name or "\0" in f"{name}{value}":
        raise ArgumentValueError(
            f"env[{name!r}] cannot stand in an environment",
            hint="A name is not empty and has no '=', and neither it nor its value has a NUL character.",
        )
