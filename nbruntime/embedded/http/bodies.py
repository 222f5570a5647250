"""Reading request bodies: JSON, and the types of its fields."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from aiohttp import web

from nbruntime.embedded.http.replies import invalid_body
from nbruntime.embedded.http.state import state_of

Check = Callable[[Any], bool]
Checked = TypeVar("Checked")

_LARGE_BODY = 2**20
"""Bytes from which a body is parsed and checked in a thread."""

_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxdict = 8
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxlong = 200

_NOT_AN_OBJECT = "Input should be a dictionary, sent as application/json"


async def read_object(
    request: web.Request, check: Callable[[dict[str, Any]], Checked], *, required: bool = True
) -> Checked:
    """Read a JSON object and check it; a large one in a thread.

    Parameters
    ----------
    request : web.Request
    check : callable
        Takes the object and raises `ReplyError` if it is wrong; an empty body that is not required is an
        empty object.
    required : bool
        Whether an empty body is an error.

    Returns
    -------
    object
        What `check` returns.

    Raises
    ------
    ReplyError
        When the body is missing, not JSON, not an object, or refused by `check`.
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
            return check({})
        raise invalid_body({"type": "missing", "loc": ("body",), "msg": "Field required", "input": None})
    if len(raw) > _LARGE_BODY:
        return await state_of(request).in_worker(lambda: check(_parse_object(raw)))
    return check(_parse_object(raw))


def _parse_object(raw: bytes) -> dict[str, Any]:
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


def checker(fields: FieldTypes) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Make a check for `read_object` that looks at the types and gives the object as it is."""

    def check(body: dict[str, Any]) -> dict[str, Any]:
        check_types(body, fields)
        return body

    return check


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
    """Give a value as an error shows it: what is long is cut, and not looked at as a whole.

    Examples
    --------
    >>> shortened(["a", 5])
    ['a', 5]
    >>> shortened([0] * 1_000_000)
    '[0, 0, 0, 0, 0, 0, 0, 0, ...]'
    """
    text = _SHORT.repr(value)
    return text if "..." in text else value
