"""Reads request bodies as JSON objects."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from aiohttp import web

from nbruntime.embedded.http.state import state_of
from nbruntime.embedded.service.errors import invalid_body
from nbruntime.embedded.service.field_types import FieldTypes, check_types, shortened

Checked = TypeVar("Checked")

_LARGE_BODY = 2**20  # bytes

_NOT_AN_OBJECT = "Input should be a dictionary, sent as application/json"


async def read_object(
    request: web.Request, check: Callable[[dict[str, Any]], Checked], *, required: bool = True
) -> Checked:
    """Read a JSON object and give the result of `check`; ReplyError for any other body.

    A large body is read and checked in a thread. Unless `required`, an empty body is an empty object.
    """
    declared = request.headers.get("Content-Type", "application/json").partition(";")[0].strip().lower()
    if not (declared == "application/json" or declared.endswith("+json")):
        # As in FastAPI; it also keeps web pages from posting without a preflight.
        raise invalid_body(
            {"type": "dataclass_type", "loc": ("body",), "msg": _NOT_AN_OBJECT, "input": declared}
        )
    raw = await request.read()
    if not raw.strip():
        if not required:
            return check({})
        raise invalid_body({"type": "missing", "loc": ("body",), "msg": "Field required", "input": None})
    if len(raw) > _LARGE_BODY:
        return await state_of(request).admission.in_worker(lambda: check(_parse_object(raw)))
    return check(_parse_object(raw))


def _parse_object(raw: bytes) -> dict[str, Any]:
    try:
        body = parse_json(raw)
    except (ValueError, RecursionError) as error:
        problem = {
            "type": "json_invalid",
            "loc": ("body", getattr(error, "pos", 0)),
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


def checker(fields: FieldTypes) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Make a check for `read_object` that checks the types and gives the object unchanged."""

    def check(body: dict[str, Any]) -> dict[str, Any]:
        check_types(body, fields)
        return body

    return check
