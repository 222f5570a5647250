"""The fields of a server's info, flat, in alphabetical order and searchable."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby, islice
from typing import Any, ClassVar

from nbruntime.display.cards import Card, CardMixin, Details, table
from nbruntime.display.html import escape, shortened

SHOWN_AT_MOST = 60  # fields that a search shows
VALUE_WIDTH = 160  # characters of a value that are shown
MOST_FIELDS = 2000  # fields that are kept; SGLang has about 600

PAIRS = 6  # fields that the card of a dict shows before it is unfolded
PAIR_WIDTH = 40  # longest value among them


class Fields(CardMixin, dict[str, Any]):
    """A dict that a server has sent: a notebook shows it as a card, and `print` as a dict.

    Examples
    --------
    >>> print(Fields(model_path="tiny", tp_size=1)._card().text())
    Fields · 2 fields
      model_path tiny · tp_size 1
    """

    kind: ClassVar = "Fields"

    def _card(self) -> Card:
        fields = fields_of(self)
        return Card(
            self.kind,
            state=f"{len(fields)} field" + ("" if len(fields) == 1 else "s"),
            pairs=self._pairs(fields),
            details=[fields_details(fields, "all")] if fields else [],
        )

    def _pairs(self, fields: Mapping[str, str]) -> list[tuple[str, object]]:
        short = ((name, value) for name, value in fields.items() if len(value) <= PAIR_WIDTH)
        return list(islice(short, PAIRS))


def fields_of(info: Mapping[str, Any]) -> dict[str, str]:
    """Flatten a server's info, as `RuntimeEndpoint.get_server_info` returns it, to values by dotted name.

    Fields of a rank's state that equal those of the server are left out.

    Examples
    --------
    >>> fields_of({"tp_size": 1, "internal_states": [{"tp_size": 1, "world_size": 2}]})
    {'tp_size': '1', 'internal_states.0.world_size': '2'}
    """
    whole = {key: value for key, value in info.items() if key != "internal_states"}
    flat = dict(_flat("", whole))
    states = info.get("internal_states")
    for rank, state in enumerate(states if isinstance(states, list) else ()):
        own = state if isinstance(state, Mapping) else {"": state}
        own = {key: value for key, value in own.items() if key not in whole or whole[key] != value}
        flat.update(_flat(f"internal_states.{rank}.", own))
    return {name: _written(value) for name, value in islice(flat.items(), MOST_FIELDS)}


def matching(fields: Mapping[str, str], query: str) -> dict[str, str]:
    """Return the fields whose name or value contains every word of a query."""
    words = query.lower().split()
    found = {}
    for name, value in fields.items():
        text = f"{name} {name.replace('_', ' ')} {value}".lower()
        if all(word in text for word in words):
            found[name] = value
    return found


def fields_html(fields: Mapping[str, str], query: str = "") -> str:
    """Return fields from `fields_of` as HTML: all of them folded by initial, or those that match a query."""
    if query.strip():
        found = matching(fields, query)
        rows = list(found.items())[:SHOWN_AT_MOST]
        summary = f"{len(found)} of {len(fields)} fields"
        if len(found) > SHOWN_AT_MOST:
            summary += f"; the first {SHOWN_AT_MOST} are shown"
        return f'<div class="nbr-quiet">{escape(summary)}</div>{_rows(rows) if rows else ""}'
    groups = groupby(sorted(fields.items(), key=_place), key=lambda field: _place(field)[:1].upper())
    return "".join(
        f"<details><summary>{escape(initial)} ({len(rows)})</summary>{_rows(rows)}</details>"
        for initial, group in groups
        for rows in [list(group)]
    )


def _place(field: tuple[str, str]) -> str:
    return field[0].lstrip("_").lower()


def fields_details(fields: Mapping[str, str], summary: str = "server info") -> Details:
    """Return all fields as a folded part of a card."""
    return Details(f"{summary}, {len(fields)} fields", body=fields_html(fields))


def _rows(rows: Iterable[tuple[str, str]]) -> str:
    return table([(name, shortened(value, VALUE_WIDTH)) for name, value in rows], labels=True)


def _flat(start: str, value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _flat(f"{start}{key}.", item)
        else:
            yield f"{start}{key}", item


def _written(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
