"""The card of a runtime, made without asking the server."""

from __future__ import annotations

from collections.abc import Mapping

from nbruntime.display.cards import Card, Details
from nbruntime.display.numbers import duration, elapsed
from nbruntime.endpoint.cards import server_pairs
from nbruntime.launch.phases import tone_of
from nbruntime.secrets import MASK, is_secret_name

LOG_LINES = 20
"""Lines of the log in the card."""


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
    server_info: Mapping[str, object] | None = None,
    arguments: Mapping[str, object] | None = None,
    log: str = "",
) -> Card:
    """Make the card of a runtime; leaves out what is empty or None.

    `model` is its name; `state` is the phase with its progress; `ready_after` and `uptime` are seconds from
    launch to ready, and since then.
    """
    pairs: list[tuple[str, object]] = [
        ("ended", exit_cause),
        ("engine", f"{engine}, because {why}" if why else engine),
        ("url", url),
        ("pid", pid),
        ("ready after", None if ready_after is None else duration(ready_after)),
        ("up", None if uptime is None or uptime < 1 else elapsed(uptime)),
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
    return Card("Runtime", model, state or phase, tone_of(phase), pairs=pairs, details=details)
