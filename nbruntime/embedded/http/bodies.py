"""Reading request bodies: JSON, and the types of its fields."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from nbruntime.embedded.http.replies import invalid_body

Check = Callable[[Any], bool]

_NOT_AN_OBJECT = "Input should be a dictionary, sent as application/json"


async def read_object(request: web.Request, *, required: bool = True) -> dict[str, Any]:
    """Read a JSON object.

    Parameters
    ----------
    request : web.Request
    required : bool
        Whether an empty body is an error.

    Returns
    -------
    dict
        Empty for an empty body that is not required.

    Raises
    ------
    ReplyError
        When the body is missing, not JSON, or not an object.
    """
    declared = request.headers.get("Content-Type", "application/json").partition(";")[0].strip().lower()
    if not (declared == "application/json" or declared.endswith("+json")):
        # As with FastAPI. It also keeps pages of the web from posting without a preflight.
        raise invalid_body(
            {"type": "dataclass_type", "loc": ("body",), "msg": _NOT_AN_OBJECT, "input": declared}
        )
    raw = await request.read()
    if not raw.strip():
        if not required:
            return {}
        raise invalid_body({"type": "missing", "loc": ("body",), "msg": "Field required", "input": None})
    try:
        body = parse_json(raw)
    except (ValueError, RecursionError) as error:
        at = getattr(error, "pos", 0)
        problem = {
            "type": "json_invalid",
            "loc": ("body", at),
            "msg": "JSON decode error",
            "input": {},
            "ctx": {"error": str(error)},
        }
        raise invalid_body(problem) from error
    if not isinstance(body, dict):
        raise invalid_body(
            {"type": "dataclass_type", "loc": ("body",), "msg": _NOT_AN_OBJECT, "input": shortened(body)}
        )
    return body


def parse_json(raw: bytes) -> Any:
    r"""Parse JSON as strictly as SGLang: UTF-8 only, no ``NaN``, no half of a surrogate pair.

    Raises
    ------
    ValueError
        When it is not JSON.

    Examples
    --------
    >>> parse_json(rb'["\ud83d\ude00"]')
    ['😀']
    >>> parse_json(rb'["\ud83d"]')
    Traceback (most recent call last):
        ...
    ValueError: half of a surrogate pair is not text
    """
    text = raw.decode("utf-8")
    value = json.loads(text, parse_constant=_refuse_constant)
    if "\\ud" in text.lower():
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError("half of a surrogate pair is not text") from error
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def is_str(value: Any) -> bool:
    """Tell a string."""
    return isinstance(value, str)


def is_int(value: Any) -> bool:
    """Tell an integer; a bool is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_bool(value: Any) -> bool:
    """Tell a bool."""
    return isinstance(value, bool)


def is_object(value: Any) -> bool:
    """Tell a JSON object."""
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
    """Check the types of the fields that are there; null passes.

    Raises
    ------
    ReplyError
        Naming every type that the first wrong field may have.
    """
    for name, types in fields.items():
        value = body.get(name)
        if value is None or any(check(value) for _, _, check in types):
            continue
        raise invalid_body(
            *(
                {
                    "type": kind,
                    "loc": ("body", name, label),
                    "msg": _MESSAGES[kind],
                    "input": shortened(value),
                }
                for kind, label, _ in types
            )
        )


def shortened(value: Any) -> Any:
    """Give a value as an error shows it: a long one is cut."""
    return value if len(str(value)) < 200 else f"{str(value)[:200]}…"
