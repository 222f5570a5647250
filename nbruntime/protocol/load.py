"""The load of a server: one record for ``/v1/loads``, older servers, and the workers of a router."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from nbruntime.errors import ProtocolError


@dataclass(frozen=True, slots=True)
class Load:
    """The load of one data-parallel rank of a server, or of one worker of a router.

    The names are those of SGLang 0.5.23's ``/v1/loads``. A field is None if the server does not report it.

    Parameters
    ----------
    dp_rank : int
        Data-parallel rank, or number of the worker.
    num_running_reqs, num_waiting_reqs, max_running_requests : int or None
        Running and waiting requests, and the most that run at once.
    num_used_tokens, num_total_tokens, max_total_num_tokens : int or None
        Tokens of running requests, tokens of all requests, and the size of the KV cache.
    token_usage, cache_hit_rate : float or None
        Used part of the KV cache, and part of the prompt tokens found in it, from 0 to 1.
    gen_throughput : float or None
        Generated tokens per second.
    raw : dict
        The server's JSON.
    """

    dp_rank: int = 0
    num_running_reqs: int | None = None
    num_waiting_reqs: int | None = None
    num_used_tokens: int | None = None
    num_total_tokens: int | None = None
    max_total_num_tokens: int | None = None
    max_running_requests: int | None = None
    token_usage: float | None = None
    gen_throughput: float | None = None
    cache_hit_rate: float | None = None
    raw: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)


_NAMES = tuple(item.name for item in fields(Load) if item.name not in ("raw", "dp_rank"))


def read_loads(body: Any, *, where: str | None = None) -> list[Load]:
    """Read ``/v1/loads``, ``/get_load`` or a router's ``/workers``: one load per rank or worker.

    Parameters
    ----------
    body : object
        The JSON: ``{"loads": [...]}``, a list of loads, ``{"load": TOKENS}`` of SGLang up to 0.5.2, or
        ``{"workers": [...]}`` of SGLang's router.
    where : str, optional
        URL, for the ProtocolError if the body has none of these forms.

    Examples
    --------
    >>> read_loads({"load": 120})[0].num_total_tokens
    120
    """
    match body:
        case {"loads": [*entries]} | [*entries] | {"load": [*entries]} if all(
            isinstance(entry, Mapping) for entry in entries
        ):
            return [_read(entry, rank) for rank, entry in enumerate(entries)]
        case {"workers": [*entries]} if all(isinstance(entry, Mapping) for entry in entries):
            return [_read_worker(entry, number) for number, entry in enumerate(entries)]
        case {"load": int(tokens)}:
            return [Load(num_total_tokens=tokens, raw=dict(body))]
        case _:
            raise ProtocolError("The answer is not a load report", where=where)


def _read_worker(entry: Mapping[str, Any], number: int) -> Load:
    given = entry.get("load")
    known = isinstance(given, int) and given >= 0  # -1: not reported
    return Load(number, num_running_reqs=given if known else None, raw=dict(entry))


def _read(entry: Mapping[str, Any], rank: int) -> Load:
    own_rank = entry.get("dp_rank")
    known = {name: entry[name] for name in _NAMES if entry.get(name) is not None}
    # Releases between 0.5.2 and 0.5.23 count running and waiting requests together, and their tokens.
    if "num_reqs" in entry:
        waiting = entry.get("num_waiting_reqs") or 0
        known.setdefault("num_running_reqs", max(entry["num_reqs"] - waiting, 0))
    if "num_tokens" in entry:
        known.setdefault("num_total_tokens", entry["num_tokens"])
    return Load(own_rank if isinstance(own_rank, int) else rank, **known, raw=dict(entry))
