"""Pydantic's field types, one model for each, as users write them for ``json_schema``."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

from pydantic import (
    AnyUrl,
    AwareDatetime,
    Base64Str,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    FilePath,
    HttpUrl,
    IPvAnyAddress,
    Json,
    PastDate,
    SecretStr,
    StrictInt,
    computed_field,
    create_model,
)

if sys.version_info >= (3, 12):
    from typing import TypedDict
else:
    from typing_extensions import TypedDict


class Colour(Enum):
    RED = "red"
    GREEN = "green"


class Grade(IntEnum):
    GOOD = 1
    BAD = 2


class Point(BaseModel):
    x: int
    y: int = 0


class Node(BaseModel):
    value: Annotated[int, Field(ge=0, le=9)]
    next: Node | None = None


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1, le=9)]


class Dog(BaseModel):
    kind: Literal["dog"]
    barks: bool


class Size(TypedDict):
    width: int
    height: int


class Options(TypedDict, total=False):
    fast: bool
    loud: bool


class Pair(NamedTuple):
    first: int
    second: bool


@dataclasses.dataclass
class Book:
    pages: int
    read: bool = False


class Aliased(BaseModel):
    model_config = ConfigDict(populate_by_name=False)
    id: Annotated[int, Field(alias="theId")]


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: int


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class Computed(BaseModel):
    side: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> int:
        return self.side**2


Short = Annotated[str, Field(max_length=6)]

FIELDS: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "None": None,
    "Decimal": Decimal,
    "Decimal, digits": Annotated[Decimal, Field(max_digits=5, decimal_places=2)],
    "datetime": datetime,
    "date": date,
    "time": time,
    "timedelta": timedelta,
    "UUID": UUID,
    "Enum": Colour,
    "IntEnum": Grade,
    "Literal": Literal["a", 1, True],
    "Optional[int]": int | None,
    "Union": int | bool | Short,
    "list": list,
    "list[int]": Annotated[list[int], Field(max_length=3)],
    "tuple[int, str]": tuple[int, Short],
    "tuple[int, ...]": Annotated[tuple[int, ...], Field(max_length=3)],
    "set[int]": set[int],
    "frozenset[str]": frozenset[str],
    "dict": dict,
    "dict[str, int]": Annotated[dict[Short, int], Field(max_length=2)],
    "dict[int, int]": Annotated[dict[int, int], Field(max_length=2)],
    "dict[Enum, int]": Annotated[dict[Colour, int], Field(max_length=2)],
    "dict[Literal, bool]": dict[Literal["p", "q"], bool],
    "dict[UUID, int]": Annotated[dict[UUID, int], Field(max_length=1)],
    "a model": Point,
    "list of models": Annotated[list[Point], Field(max_length=2)],
    "a recursive model": Node,
    "a discriminated union": Annotated[Cat | Dog, Field(discriminator="kind")],
    "int, bounded": Annotated[int, Field(ge=3, lt=20)],
    "float, bounded": Annotated[float, Field(gt=0, le=1)],
    "int, multiple_of": Annotated[int, Field(multiple_of=5)],
    "str, lengths": Annotated[str, Field(min_length=2, max_length=5)],
    "str, pattern": Annotated[str, Field(pattern=r"^[A-Z]{2}-\d+$")],
    "str, pattern and length": Annotated[str, Field(pattern=r"^[A-Z]+$", max_length=5)],
    "str, open pattern": Annotated[str, Field(pattern=r"[a-z]{3}")],
    "str, email": Annotated[str, Field(json_schema_extra={"format": "email"})],
    "AnyUrl": AnyUrl,
    "HttpUrl": HttpUrl,
    "str, uri": Annotated[AnyUrl, Field(json_schema_extra=lambda schema: schema.pop("minLength"))],
    "IPv4Address": IPv4Address,
    "IPv6Address": IPv6Address,
    "IPvAnyAddress": IPvAnyAddress,
    "IPv4Network": IPv4Network,
    "bytes": bytes,
    "Path": Path,
    "FilePath": FilePath,
    "SecretStr": SecretStr,
    "Json": Json[int],
    "Any": Any,
    "object": object,
    "TypedDict": Size,
    "TypedDict, not total": Options,
    "NamedTuple": Pair,
    "dataclass": Book,
    "Base64Str": Base64Str,
    "deque": Annotated[deque[bool], Field(max_length=2)],
    "Sequence": Annotated[Sequence[bool], Field(max_length=2)],
    "Mapping": Annotated[Mapping[Short, bool], Field(max_length=1)],
    "Pattern": re.Pattern[str],
    "ByteSize": ByteSize,
    "PastDate": PastDate,
    "AwareDatetime": AwareDatetime,
    "StrictInt": StrictInt,
    "a model with an alias": Aliased,
    "a model, extra forbidden": Closed,
    "a model, extra allowed": Open,
    "a model with a computed field": Computed,
    "a default": Annotated[int, Field(default=3)],
    "Optional model": Point | None,
}
"""Field types by name."""


UNSAID = {"Decimal", "Decimal, digits", "dict[int, int]", "Json", "ByteSize", "PastDate"}
"""Types whose schemas do not say everything: a text may be no number, a date not in the past."""


def model_of(name: str) -> type[BaseModel]:
    """Make the model whose field ``x`` has a type of `FIELDS`."""
    return create_model("Answer", x=(FIELDS[name], ...))
