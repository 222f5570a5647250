"""The body of ``/start_profile``: SGLang's options by name (0.5.23, ``ProfileReq``)."""

from __future__ import annotations

from typing import Any

from nbruntime.errors import ArgumentTypeError, ArgumentValueError
from nbruntime.protocol.nearest_names import nearest_name

ACTIVITIES = ("CPU", "GPU", "MEM", "RPD", "CUDA_PROFILER")
"""What a profile can record."""

_TYPES: dict[str, type] = {
    "output_dir": str,
    "start_step": int,
    "num_steps": int,
    "activities": list,
    "profile_by_stage": bool,
    "with_stack": bool,
    "record_shapes": bool,
    "profile_id": str,
    "merge_profiles": bool,
    "profile_prefix": str,
    "profile_stages": list,
    "detailed_annotations": bool,
}

PROFILE_OPTIONS = tuple(_TYPES)


def build_profile_request(options: dict[str, Any]) -> dict[str, Any] | None:
    """Check the options of a profile and make the JSON object.

    An option of None is not sent. The result is None if there is no option, which old servers accept, too.
    Raises an ArgumentTypeError or ArgumentValueError for what SGLang would not accept.

    Examples
    --------
    >>> build_profile_request({"num_steps": 5, "activities": ("CPU",), "output_dir": None})
    {'num_steps': 5, 'activities': ['CPU']}
    >>> build_profile_request({"steps": 5})
    Traceback (most recent call last):
        ...
    nbruntime.errors.ArgumentTypeError: There is no profile option 'steps'
    Did you mean 'num_steps'?
    """
    body = {}
    for name, value in options.items():
        if name not in _TYPES:
            meant = nearest_name(name, PROFILE_OPTIONS)
            raise ArgumentTypeError(
                f"There is no profile option {name!r}",
                hint=f"Did you mean {meant!r}?" if meant else f"There are: {', '.join(PROFILE_OPTIONS)}.",
            )
        if value is not None:
            body[name] = _checked(name, value)
    return body or None


def _checked(name: str, value: Any) -> Any:
    expected = _TYPES[name]
    if expected is str and hasattr(value, "__fspath__"):
        value = str(value)
    if expected is list and isinstance(value, tuple | set | frozenset):
        value = list(value)
    right = isinstance(value, expected) and (expected is not int or not isinstance(value, bool))
    if not right or (expected is list and not all(isinstance(item, str) for item in value)):
        wanted = "list of texts" if expected is list else expected.__name__
        raise ArgumentTypeError(
            f"{name} is a {type(value).__name__}, not a {wanted}",
            where=name,
            hint="Nothing was sent: give a value of that type.",
        )
    if name in ("start_step", "num_steps") and value < 0:
        raise ArgumentValueError(f"{name} is {value}", where=name, hint="Give 0 or more.")
    if name == "activities" and (unknown := [item for item in value if item not in ACTIVITIES]):
        raise ArgumentValueError(
            f"There is no activity {unknown[0]!r}", where=name, hint=f"There are: {', '.join(ACTIVITIES)}."
        )
    return value
