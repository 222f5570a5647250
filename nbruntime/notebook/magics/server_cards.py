"""Cards of the known servers, and of one server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nbruntime.display.cards import Card, table, text_table
from nbruntime.display.server_fields import fields_details, fields_of
from nbruntime.launch.phases import ENDED_PHASES
from nbruntime.notebook.magics.known_servers import HOW_TO_GET_ONE, KnownServer

_HEADS = ("", "name", "model", "engine", "state", "of", "url")


def servers_card(known: Sequence[KnownServer], *, in_use: str) -> Card:
    """Return the card of `%sgl_servers`: the `known` servers of this session, and those of other kernels."""
    from nbruntime.launch.servers import servers

    listed = {info.url: info for info in servers()}
    rows: list[tuple[str, ...]] = []
    for each in known:
        info = None if each.state in ENDED_PHASES else listed.pop(each.url, None)
        mark = "→" if in_use in each.names else ""
        engine, owner = ("", "") if info is None else (info.engine, info.whose)
        rows.append((mark, ", ".join(each.names), each.model, engine, each.state, owner, each.url))
    rows += [
        ("", info.name, info.model, info.engine, info.state, info.whose, url) for url, info in listed.items()
    ]
    if not rows:
        return Card("No servers", plain=f"  {HOW_TO_GET_ONE}", body=f"<div>{HOW_TO_GET_ONE}</div>")
    return Card(
        f"{len(rows)} server" + ("" if len(rows) == 1 else "s"),
        body=table([_HEADS, *rows], heads=True),
        plain=text_table([_HEADS, *rows]),
    )


def info_card(known: KnownServer, info: Mapping[str, Any]) -> Card:
    """Return the card of a server, from `RuntimeEndpoint.get_server_info`."""
    from nbruntime.endpoint.cards import server_pairs

    return Card(
        "Server",
        known.name,
        known.state,
        "good",
        pairs=[("model", known.model), ("url", known.url), *server_pairs(info)],
        details=[fields_details(fields_of(info))],
    )
