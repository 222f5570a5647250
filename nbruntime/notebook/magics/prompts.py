"""Prompt templates and JSON schemas of cells."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from IPython.core.error import UsageError

from nbruntime.notebook.magics.texts import text_of
from nbruntime.protocol.nearest_names import nearest_name

_PLACE = re.compile(r"\{\{\s*([^\s{}]+)\s*\}\}")


def fill_template(text: str, names: Mapping[str, Any]) -> str:
    """Replace each ``{{name}}`` by the text of its value; all other braces stay as they are.

    Examples
    --------
    >>> fill_template("Translate {{ word }} into {json}.", {"word": "cat"})
    'Translate cat into {json}.'
    """
    places = list(filter(None, map(_name_in, _PLACE.finditer(text))))
    missing = [name for name in dict.fromkeys(places) if name not in names]
    if missing:
        near = [
            f"Did you mean {found} instead of {name}?" for name in missing if (found := _near(name, names))
        ]
        hint = " ".join(near) or "Give them a value in a cell before this one."
        what = "variable" if len(missing) == 1 else "variables"
        raise UsageError(f"Undefined template {what}: {', '.join(missing)}.\n{hint}")
    values = {name: text_of(names[name], name) for name in places}
    return _PLACE.sub(lambda place: values[name] if (name := _name_in(place)) else place[0], text)


def read_schema(given: str, names: Mapping[str, Any]) -> Any:
    """Return the JSON schema in a variable or file: a mapping, text, or a pydantic model."""
    if given in names:
        value = names[given]
        if isinstance(value, str | Mapping) or hasattr(value, "model_json_schema"):
            return value
        raise UsageError(
            f"The variable {given} is a {type(value).__name__}, not a schema.\n"
            "It may be a dict, JSON text, or a pydantic model."
        )
    if given.lstrip().startswith("{"):  # the {variable} is expanded already
        return _json_text("The JSON schema", given)
    path = Path(given).expanduser()
    if not path.is_file():
        near = _near(given, names)
        hint = (
            f"Did you mean {near}?" if near else "Give the name of a variable or of a file with the schema."
        )
        raise UsageError(f"There is no variable and no file {given!r}.\n{hint}")
    return _json_text(given, path.read_text(encoding="utf-8"))


def _json_text(name: str, text: str) -> str:
    try:
        json.loads(text)
    except ValueError as error:
        raise UsageError(f"{name} is not JSON: {error}.\nIt must hold a JSON schema.") from None
    return text


def _name_in(place: re.Match[str]) -> str | None:
    """Return the name in ``{{…}}`` in Python's normal form (its reference, "Identifiers"), if it is one."""
    name = unicodedata.normalize("NFKC", place[1])
    return name if name.isidentifier() else None


def _near(name: str, names: Iterable[str]) -> str | None:
    return nearest_name(name, (each for each in names if not each.startswith("_")))
