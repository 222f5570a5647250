"""JSON schemas as SGLang reads them (0.5.23, with xgrammar 0.2.7), written for llguidance.

SGLang refuses keywords that its grammars could not keep, by name and place. Of the others it reads one kind
at a time: beside ``$ref``, ``const``, ``enum``, ``anyOf``, ``oneOf`` or ``allOf``, in this order, it ignores
all others. Objects and arrays hold what their schemas name, and nothing else unless they say so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, combinations
from math import comb
from typing import Any

from nbruntime.embedded.sampling.grammar.expressions import Choice, Text, as_regex
from nbruntime.embedded.sampling.grammar.formats import FORMATS
from nbruntime.embedded.sampling.grammar.patterns import Pattern, read_pattern

Schema = dict[str, Any]

_REFUSED = (
    "not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems",
    "multipleOf", "dependentRequired", "dependentSchemas",
)  # fmt: skip
_ONE_SCHEMA = (
    "additionalItems", "additionalProperties", "contentSchema", "items", "propertyNames",
    "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_SCHEMA_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_OBJECT_WORDS = (
    "properties", "patternProperties", "propertyNames", "required", "minProperties", "maxProperties",
)  # fmt: skip
_ARRAY_WORDS = ("prefixItems", "minItems", "maxItems")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_LARGEST = 2**63
_MOST_SETS = 300
"""Sets of optional properties that are written out where their number is bounded."""


def read_schema(text: str) -> Schema:
    """Read a JSON schema as SGLang does, and write what llguidance needs; ValueError names keyword and place.

    Examples
    --------
    >>> read_schema('{"type": "object", "properties": {"a": true}}')["additionalProperties"]
    False
    >>> read_schema('{"type": "array", "items": {"not": {}}}')
    Traceback (most recent call last):
        ...
    ValueError: JSON schema at #/items: the keyword is not served: not. Leave it out, or check it afterwards.
    """
    root = json.loads(text)
    for schema, place in _walk(root, "#"):
        _refuse_unserved(schema, place)
    return _Reader(root).read()


def _walk(schema: Any, place: str) -> Iterator[tuple[Schema, str]]:
    """Give all schemas in a schema and their places, without a look into constants and examples."""
    if not isinstance(schema, dict):
        return
    yield schema, place
    for word in _ONE_SCHEMA:
        yield from _walk(schema.get(word), f"{place}/{word}")
    for word in _SCHEMA_LISTS:
        if isinstance(schema.get(word), list):
            for number, each in enumerate(schema[word]):
                yield from _walk(each, f"{place}/{word}/{number}")
    for word in _SCHEMA_MAPS:
        if isinstance(schema.get(word), dict):
            for name, each in schema[word].items():
                yield from _walk(each, f"{place}/{word}/{_escaped(name)}")


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _refuse_unserved(schema: Schema, place: str) -> None:
    """Refuse what SGLang refuses since its grammars would ignore it."""
    refused = [word for word in _REFUSED if word in schema]
    if refused:
        words = "keyword is" if len(refused) == 1 else "keywords are"
        raise _unserved(place, f"the {words} not served: {', '.join(refused)}")
    kind = schema.get("type", "string")
    if kind != "string" and not (isinstance(kind, list) and "string" in kind):
        return
    if "format" in schema and not (isinstance(schema["format"], str) and schema["format"] in FORMATS):
        raise _unserved(place, f"the format {schema['format']!r} is not served")
    groups = list(_those(schema, "format", "pattern"))
    if _those(schema, "minLength", "maxLength"):
        groups.append("minLength/maxLength")
    if len(groups) > 1:
        raise _unserved(place, f"{' and '.join(groups)} are not served together")


def _unserved(place: str, what: str) -> ValueError:
    return ValueError(f"JSON schema at {place}: {what}. Leave it out, or check it afterwards.")


def _wrong(place: str, what: str) -> ValueError:
    return ValueError(f"JSON schema at {place}: {what}.")


class _Reader:
    """Reads one schema; what it refers to becomes a definition."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._strict = True
        self._names: dict[tuple[str, bool], str] = {}
        self._pending: list[tuple[str, Any, bool]] = []
        self._definitions: dict[str, Schema] = {}

    def read(self) -> Schema:
        schema = self._read(self._root, "#")
        while self._pending:
            uri, target, self._strict = self._pending.pop()
            self._definitions[self._names[uri, self._strict]] = self._read(target, uri)
        return {**schema, "$defs": self._definitions} if self._definitions else schema

    def _read(self, schema: Any, place: str) -> Schema:
        if schema is True:
            return {}
        if schema is False:
            raise _wrong(place, "false allows no value")
        if not isinstance(schema, dict):
            raise _wrong(place, f"a schema is an object or a boolean, not {json.dumps(schema)[:40]}")
        if "$ref" in schema:
            return self._reference(schema["$ref"], place)
        if "const" in schema:
            return {"const": schema["const"]}
        if "enum" in schema:
            return {"enum": self._list(schema, "enum", place)}
        for word in ("anyOf", "oneOf"):
            if word in schema:
                return {"anyOf": self._each(schema, word, place)}
        if "allOf" in schema:
            return self._all_of(schema, place)
        return self._of_type(schema, place)

    def _of_type(self, schema: Schema, place: str) -> Schema:
        kind = schema.get("type")
        if isinstance(kind, list) and kind:
            return {"anyOf": [self._of_type(schema | {"type": each}, place) for each in kind]}
        if not kind and {"properties", "additionalProperties", "unevaluatedProperties"} & schema.keys():
            kind = "object"
        elif not kind and {"items", "prefixItems", "unevaluatedItems"} & schema.keys():
            kind = "array"
        match kind:
            case None | []:
                return {}
            case "boolean" | "null":
                return {"type": kind}
            case "integer" | "number":
                return self._number(schema, kind, place)
            case "string":
                return self._string(schema, place)
            case "array":
                return self._array(schema, place)
            case "object":
                return self._object(schema, place)
        raise _wrong(place, f"there is no type {json.dumps(kind)}")

    def _reference(self, uri: Any, place: str) -> Schema:
        if not isinstance(uri, str):
            raise _wrong(place, "$ref is not a string")
        if uri != "#" and not uri.startswith("#/"):
            raise _wrong(place, f"$ref {uri!r} leads to another document, and none is looked up")
        key = uri, self._strict
        if key not in self._names:
            self._names[key] = str(len(self._names))
            self._pending.append((uri, self._target(uri, place), self._strict))
        return {"$ref": f"#/$defs/{self._names[key]}"}

    def _target(self, uri: str, place: str) -> Any:
        target = self._root
        for part in filter(None, uri[2:].split("/")):
            if not isinstance(target, dict) or part not in target:
                raise _wrong(place, f"$ref {uri!r} leads nowhere: there is no {part!r}")
            target = target[part]
        return target

    def _all_of(self, schema: Schema, place: str) -> Schema:
        """Read several schemas as one; SGLang allows everything if there are more than one."""
        parts = self._list(schema, "allOf", place)
        if len(parts) == 1:
            return self._read(parts[0], f"{place}/allOf/0")
        # Each of them names some of the properties, so none may forbid the others.
        strict, self._strict = self._strict, False
        try:
            return {"allOf": self._each(schema, "allOf", place)}
        finally:
            self._strict = strict

    def _number(self, schema: Schema, kind: str, place: str) -> Schema:
        bounds = _those(schema, *_BOUNDS)
        for word, bound in bounds.items():
            if isinstance(bound, bool) or not isinstance(bound, int | float):
                raise _wrong(place, f"{word} is not a number")
            if not abs(bound) < _LARGEST:
                raise _wrong(place, f"{word} is beyond 64 bits")
            if kind == "integer" and bound != int(bound):
                raise _wrong(place, f"{word} of an integer is not a whole number")
        return {"type": kind, **bounds}

    def _string(self, schema: Schema, place: str) -> Schema:
        if "format" in schema:
            return _matching(FORMATS[schema["format"]], place)
        if "pattern" in schema:
            return _matching(schema["pattern"], place)
        return {"type": "string"} | _those(schema, "minLength", "maxLength")

    def _array(self, schema: Schema, place: str) -> Schema:
        array = _those(schema, "minItems", "maxItems")
        if "prefixItems" in schema:
            array["prefixItems"] = self._each(schema, "prefixItems", place)
        bare = not any(word in schema for word in _ARRAY_WORDS)
        rest = self._rest(schema, ("items", "unevaluatedItems"), place, bare=bare)
        return {"type": "array", **array, "items": rest}

    def _rest(self, schema: Schema, words: tuple[str, ...], place: str, *, bare: bool) -> Schema | bool:
        """Read what else an array or object may hold; nothing, unless it says so or says nothing at all."""
        for word in words:
            if word == "items" and isinstance(schema.get(word), list):
                raise _wrong(place, "items is a list; write prefixItems")
            if word in schema:
                return schema[word] is not False and self._read(schema[word], f"{place}/{word}")
        return bare or not self._strict

    def _object(self, schema: Schema, place: str) -> Schema:
        bare = not any(word in schema for word in _OBJECT_WORDS)
        named = {
            name: self._read(each, f"{place}/properties/{_escaped(name)}")
            for name, each in self._map(schema, "properties", place).items()
        }
        matching: dict[str, Schema | bool] = {
            _whole(as_regex(_pattern(pattern, place).body)): self._read(
                each, f"{place}/patternProperties/{_escaped(pattern)}"
            )
            for pattern, each in self._map(schema, "patternProperties", place).items()
        }
        rest = self._rest(schema, ("additionalProperties", "unevaluatedProperties"), place, bare=bare)
        if "propertyNames" in schema:
            names = self._names_pattern(schema["propertyNames"], f"{place}/propertyNames")
            if not matching and not (named and rest is False):
                matching[names] = {} if rest is False else rest
                rest = False
        # As in SGLang, a required property that may not be is not.
        required = [
            name for name in self._required(schema, place) if name in named or matching or rest is not False
        ]
        made = {
            "type": "object",
            "properties": named,
            "required": required,
            "patternProperties": matching,
            "additionalProperties": rest,
        }
        bounds = _those(schema, "minProperties", "maxProperties")
        for word, bound in bounds.items():
            if not isinstance(bound, int) or bound < 0:
                raise _wrong(place, f"{word} is not a number of properties")
        return self._bounded(made, bounds, place) if bounds else made

    def _required(self, schema: Schema, place: str) -> list[str]:
        names = self._list(schema, "required", place) if schema.get("required") else []
        if not all(isinstance(name, str) for name in names):
            raise _wrong(place, "required holds more than names")
        return names

    def _bounded(self, made: Schema, bounds: Schema, place: str) -> Schema:
        """Bound the number of an object's properties, which llguidance does only if none is optional."""
        named, required = made["properties"], made["required"]
        optional = [name for name in named if name not in required]
        if not optional:
            return made | bounds
        is_open = bool(made["patternProperties"]) or made["additionalProperties"] is not False
        least = 0 if is_open else max(0, bounds.get("minProperties", 0) - len(required))
        most = min(len(optional), bounds.get("maxProperties", len(named)) - len(required))
        # Without an upper bound, those behind the first few are as optional as ever.
        has_tail = not is_open and most == len(optional) and least <= most
        counts = range(least, least + 1 if has_tail else most + 1)
        if sum(comb(len(optional), count) for count in counts) > _MOST_SETS:
            raise _unserved(place, f"{' and '.join(bounds)} of so many optional properties is not served")
        named = {name: self._defined(each) for name, each in named.items()}
        options = []
        for there in chain.from_iterable(combinations(optional, count) for count in counts):
            tail = optional[optional.index(there[-1]) + 1 if there else 0 :] if has_tail else []
            allowed = {*required, *there, *tail}
            properties = {name: name in allowed and each for name, each in named.items()}
            option = made | {"properties": properties, "required": [*required, *there]}
            options.append(option if has_tail else option | bounds)
        return {"anyOf": options} if options else made | bounds

    def _defined(self, schema: Schema) -> Schema:
        """Make a definition of a schema that is written several times."""
        name = f"part{len(self._definitions)}"
        self._definitions[name] = schema
        return {"$ref": f"#/$defs/{name}"}

    def _names_pattern(self, schema: Any, place: str) -> str:
        """Read a schema of the names of properties as a pattern."""
        seen: set[str] = set()
        while isinstance(schema, dict) and isinstance(uri := schema.get("$ref"), str) and uri not in seen:
            seen.add(uri)
            schema = self._target(uri, place)
        if not isinstance(schema, dict):
            raise _wrong(place, "propertyNames is not an object")
        if schema.get("type", "string") != "string":
            raise _wrong(place, "names of properties are strings")
        return _whole(_pattern_of(self._read({"type": "string"} | schema, place)))

    def _each(self, schema: Schema, word: str, place: str) -> list[Schema]:
        return [
            self._read(each, f"{place}/{word}/{number}")
            for number, each in enumerate(self._list(schema, word, place))
        ]

    def _list(self, schema: Schema, word: str, place: str) -> list[Any]:
        entries = schema[word]
        if not isinstance(entries, list) or not entries:
            raise _wrong(place, f"{word} is not a list with entries")
        return entries

    def _map(self, schema: Schema, word: str, place: str) -> dict[str, Any]:
        entries = schema.get(word, {})
        if not isinstance(entries, dict):
            raise _wrong(place, f"{word} is not an object")
        return entries


def _those(schema: Schema, *words: str) -> Schema:
    return {word: schema[word] for word in words if word in schema}


@lru_cache(maxsize=256)
def _read_pattern(pattern: str) -> Pattern:
    return read_pattern(pattern, in_schema=True)


def _pattern(pattern: Any, place: str) -> Pattern:
    if not isinstance(pattern, str):
        raise _wrong(place, "pattern is not a string")
    try:
        return _read_pattern(pattern)
    except ValueError as error:
        raise ValueError(f"JSON schema at {place}: {error}") from error


def _matching(pattern: Any, place: str) -> Schema:
    """Give the schema of strings that match a pattern."""
    read = _pattern(pattern, place)
    schema: Schema = {"type": "string", "pattern": _whole(as_regex(read.body))}
    if read.also:
        schema["allOf"] = [{"type": "string", "pattern": _whole(as_regex(each))} for each in read.also]
    return schema


def _whole(regex: str) -> str:
    return f"^(?:{regex})$"


def _pattern_of(schema: Schema) -> str:
    """Give a regular expression of the strings of a schema that was read."""
    if "pattern" in schema:
        return str(schema["pattern"][1:-1])
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    if values:
        return as_regex(Choice(tuple(Text(value) for value in values if isinstance(value, str))))
    if "anyOf" in schema:
        return "|".join(f"(?:{_pattern_of(each)})" for each in schema["anyOf"])
    return f"(?s:.){{{schema.get('minLength', 0)},{schema.get('maxLength', '')}}}"
