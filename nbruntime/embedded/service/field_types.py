"""Types of the fields of a request body, with pydantic's messages."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from nbruntime.embedded.service.errors import invalid_body

Check = Callable[[Any], bool]

_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxdict = 8
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxlong = 200


def is_str(value: Any) -> bool:
    """Tell whether a value is a string."""
    return isinstance(value, str)


def is_int(value: Any) -> bool:
    """Tell whether a value is an integer; a bool is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_bool(value: Any) -> bool:
    """Tell whether a value is a bool."""
    return isinstance(value, bool)


def is_object(value: Any) -> bool:
    """Tell whether a value is a JSON object."""
    return isinstance(value, dict)


def list_of(check: Check) -> Check:
    """Make a check for lists whose items pass `check`."""
    return lambda value: isinstance(value, list) and all(map(check, value))


def optional(check: Check) -> Check:
    """Make a check that null passes, too."""
    return lambda value: value is None or check(value)


FieldTypes = Mapping[str, tuple[tuple[str, str, Check], ...]]
"""Per field, the types it may have: pydantic's error type, its name for the type, and the check."""

_MESSAGES = {
    "string_type": "Input should be a valid string",
    "int_type": "Input should be a valid integer",
    "bool_type": "Input should be a valid boolean",
    "list_type": "Input should be a valid list",
    "dict_type": "Input should be a valid dictionary",
}


def check_types(body: Mapping[str, Any], fields: FieldTypes) -> None:
    """Check the types of the given fields; null passes. ReplyError for the first wrong field."""
    for name, types in fields.items():
        value = body.get(name)
        if value is None or any(check(value) for _, _, check in types):
            continue
        shown = shortened(value)
        raise invalid_body(
            *(
                {"type": kind, "loc": ("body", name, label), "msg": _MESSAGES[kind], "input": shown}
                for kind, label, _ in types
            )
        )


def shortened(value: Any) -> Any:
    """Give a value as an error shows it: long values are cut, without reading them whole.

    Examples
    --------
    >>> shortened(["a", 5])
    ['a', 5]
    >>> shortened([0] * 1_000_000)
    '[0, 0, 0, 0, 0, 0, 0, 0, ...]'
    """
    text = _SHORT.repr(value)
    return text if "..." in text else value
