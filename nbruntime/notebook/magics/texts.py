"""The text of a value in a prompt or on the line of a magic."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any

from IPython.core.error import UsageError

from nbruntime.notebook.magics.classes import is_of

_STREAM = "nbruntime.generation.stream.GenerationStream"
_ASYNC_STREAM = "nbruntime.generation.async_stream.AsyncGenerationStream"


def text_of(value: Any, name: str) -> str:
    """Return the text of a value: of an answer its text, of a list its texts one below the other.

    A conversation gives its transcript, a program of the frontend language its whole text, a mapping its
    JSON, a table of pandas all of its rows, an array all of its items.

    Raises
    ------
    UsageError
        If the value has no text; it names the value by `name`.

    Examples
    --------
    >>> text_of(["one", 2, {"text": "three", "meta_info": {}}], "answers").split()
    ['one', '2', 'three']
    """
    match value:
        case str():
            return value
        case Number():  # bool as well
            return str(value)
        case bytes() | bytearray() | memoryview() | type():
            pass
        case _ if is_of(value, _STREAM, _ASYNC_STREAM):
            if value.done:
                return text_of([each.text for each in value.generations], name)
            wait = "await " if is_of(value, _ASYNC_STREAM) else ""
            raise UsageError(f"{name} is a stream that has not ended.\nWait for it: {wait}{name}.result()")
        case {"text": str(text), "meta_info": _}:  # an answer of the server
            return text
        case Mapping():
            return _json_of(value, name)
        case Sequence():
            return "\n".join(text_of(each, f"{name}[{number}]") for number, each in enumerate(value))
        case _ if hasattr(value, "stream_executor"):  # the frontend language's ProgramState
            return str(value.text())
        case _ if hasattr(value, "model_dump_json"):  # a pydantic model
            return str(value.model_dump_json(indent=2))
        case _ if type(value).__module__.startswith("pandas."):
            return str(value.to_string())  # str() would leave out rows
        case _ if hasattr(value, "tolist") and getattr(value, "shape", None):
            return str(value.tolist())  # an array of numpy or torch: str() would leave out items
        case _ if _has_str(type(value)):  # a path, a date, a decimal number
            return str(value)
    raise _no_text(value, name)


def _has_str(kind: Any) -> bool:
    return kind.__str__ is not object.__str__


def _json_of(value: Mapping[Any, Any], name: str) -> str:
    try:
        return json.dumps(value, indent=2, ensure_ascii=False)
    except (TypeError, ValueError):
        raise UsageError(
            f"{name} is a {type(value).__name__} that JSON cannot hold, so it has no text.\n"
            "Give the text itself, such as one of its values."
        ) from None


def _no_text(value: Any, name: str) -> UsageError:
    kind = "None" if value is None else f"a {type(value).__name__}"
    return UsageError(
        f"{name} is {kind}, which has no text.\n"
        "Give a variable with text, a number, an answer, a conversation, a mapping or a list of these."
    )
