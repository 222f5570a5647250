"""How a runtime, a phase of its launch and a list of servers show themselves; nobody is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nbruntime.display.cards import Card, Details, Tone, table
from nbruntime.endpoint.cards import model_name, server_pairs, span
from nbruntime.generation.record import seconds
from nbruntime.secrets import MASK, is_secret_name

if TYPE_CHECKING:
    from nbruntime.launch.phases import Phase
    from nbruntime.launch.servers import ServerInfo

LOG_LINES = 20
"""Lines of the log that a card has, folded."""

_ENDS: dict[str, Tone] = {
    "ready": "good",
    "stopped": "idle",
    "died": "bad",
    "failed": "bad",
    "interrupted": "idle",
}


def tone_of(phase: str) -> Tone:
    """Give the tone of a phase: ready, at its end, or on the way."""
    return _ENDS.get(phase, "busy")


def runtime_card(
    *,
    model: str,
    phase: str,
    state: str = "",
    engine: str = "",
    why: str = "",
    url: str = "",
    pid: int | None = None,
    ready_after: float | None = None,
    uptime: float | None = None,
    exit_cause: str = "",
    model_info: Mapping[str, object] | None = None,
    server_info: Mapping[str, object] | None = None,
    arguments: Mapping[str, object] | None = None,
    log: str = "",
) -> Card:
    """Make the card of a runtime.

    Parameters
    ----------
    model : str
        What was asked for, as long as the server has not named its model.
    phase : str
        As `Runtime.phase`.
    state : str
        The phase with its progress.
    engine, why : str
        Which server, and why that one.
    url : str
        Empty before there is a port.
    pid : int, optional
        While the server runs.
    ready_after : float, optional
        Seconds that the launch took.
    uptime : float, optional
        Seconds since it was ready.
    exit_cause : str
        How the server ended, if it died.
    model_info, server_info : mapping, optional
        What the server said of itself when it was last asked.
    arguments : mapping, optional
        What it was started with, without keys.
    log : str
        The end of its log.

    Returns
    -------
    Card
    """
    pairs: list[tuple[str, object]] = [
        ("ended", exit_cause),
        ("engine", f"{engine}, because {why}" if why else engine),
        ("url", url),
        ("pid", pid),
        ("ready after", None if ready_after is None else seconds(ready_after)),
        ("up", None if uptime is None or uptime < 1 else span(uptime)),
    ]
    known = dict(server_pairs(server_info or {}))
    given = dict(arguments or {})
    if "device" not in known and (given.get("device") or given.get("dtype")):
        known["device"] = ", ".join(str(given[name]) for name in ("device", "dtype") if given.get(name))
    pairs += [pair for pair in known.items() if pair[0] != "server"]
    details = []
    if given:
        rows = [(name, MASK if is_secret_name(name) else value) for name, value in sorted(given.items())]
        details.append(Details("arguments", rows=rows))
    details.append(Details("log", text=log))
    name = model_name(model_info) if model_info else model
    return Card("Runtime", name, state or phase, tone_of(phase), pairs=pairs, details=details)


def phase_card(phase: Phase) -> Card:
    """Make the card of a phase: its name, and a bar where there is a measure."""
    return Card("Phase", state=str(phase), tone=tone_of(phase.name), body=bar(phase))


def bar(phase: Phase) -> str:
    """Draw how much of a phase is done, where that is known.

    Parameters
    ----------
    phase : Phase

    Returns
    -------
    str
        HTML; empty without a measure. The figures stand in the phase's own words.
    """
    if phase.done is None or not phase.total:
        return ""
    share = min(max(phase.done / phase.total, 0.0), 1.0)
    return (
        '<div class="nbr-busy" role="progressbar" aria-valuemin="0" aria-valuemax="100"'
        f' aria-valuenow="{share * 100:.0f}" style="max-width:30em;height:3px;margin:.35em 0;'
        'background:rgba(128,128,128,.25)">'
        f'<div style="width:{share * 100:.1f}%;height:3px;background:currentColor"></div></div>'
    )


def servers_card(servers: list[ServerInfo]) -> Card:
    """Make the card of a list of servers, a row each.

    Parameters
    ----------
    servers : list of ServerInfo
        Its repr is the card's text.

    Returns
    -------
    Card
    """
    if not servers:
        return Card("No servers", plain="  Runtime(...) starts one.")
    heads = ["name", "model", "engine", "state", "owner", "up", "pid", "url"]
    rows = [
        [each.name, model, each.engine, each.state, each.owner, span(each.age), each.pid, each.url]
        for each in servers
        for model in [model_name({"model_path": each.model}) if each.model else "default"]
    ]
    count = f"{len(servers)} server" + ("" if len(servers) == 1 else "s")
    return Card(count, body=table([heads, *rows], heads=True), plain=repr(servers))
