"""List and stop the servers of this user on this machine, of any kernel."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass

from nbruntime.display.cards import Card, CardMixin, table, text_table
from nbruntime.display.numbers import elapsed
from nbruntime.endpoint.cards import model_name
from nbruntime.errors import ArgumentValueError
from nbruntime.launch import registry
from nbruntime.launch.server import end_server
from nbruntime.launch.supervisor.processes import identify, is_running, send
from nbruntime.launch.supervisor.record import ServerRecord

__all__ = ["ServerInfo", "ServerList", "servers", "stop"]


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """One server in the list.

    Parameters
    ----------
    name, url : str
        Its name, and where it answers.
    model, engine : str
        Model that was asked for, empty for the default; ``sglang`` or ``embedded``.
    state : str
        ``starting``, ``ready``, ``stopping``, ``stopped``, or ``left over`` when its supervisor was killed.
    owner : str
        ``this kernel``, ``another kernel``, ``kept`` for one that outlives its kernel, or ``orphan``.
    age, pid : float, int or None
        Seconds since it was started; process id, None before it is started.
    """

    name: str
    model: str
    engine: str
    url: str
    state: str
    owner: str
    age: float
    pid: int | None


class ServerList(CardMixin, list[ServerInfo]):
    """Servers, with a table as their repr."""

    def __repr__(self) -> str:
        if not self:
            return "No servers"
        rows = [("name", "model", "engine", "url", "state", "owner", "age")]
        rows += [
            (one.name, one.model or "default", one.engine, one.url, one.state, one.owner, elapsed(one.age))
            for one in self
        ]
        return text_table(rows)

    def _card(self) -> Card:
        if not self:
            return Card("No servers", plain="  Runtime(...) starts one.")
        heads = ["name", "model", "engine", "state", "owner", "up", "pid", "url"]
        rows = [
            [
                each.name,
                model_name({"model_path": each.model}) if each.model else "default",
                *(each.engine, each.state, each.owner, elapsed(each.age), each.pid, each.url),
            ]
            for each in self
        ]
        count = f"{len(self)} server" + ("" if len(self) == 1 else "s")
        return Card(count, body=table([heads, *rows], heads=True), plain=repr(self))


def servers() -> ServerList:
    """List this user's servers on this machine, of other kernels too, the oldest first.

    The list comes from records and the process table; no server is asked.

    Examples
    --------
    >>> import nbruntime
    >>> nbruntime.servers()  # doctest: +SKIP
    name  model                  engine    url                     state  owner        age
    chat  SmolLM2-135M-Instruct  embedded  http://127.0.0.1:30000  ready  this kernel  12 s
    """
    return ServerList(
        _info(record)
        for record in registry.records()
        if registry.is_held(record) or is_running(record.server)
    )


def stop(which: str) -> ServerList:
    """Stop servers of this user, of other kernels too, and wait until nothing is left of them.

    Parameters
    ----------
    which : str
        A server's name or URL; ``"all"``; or ``"orphans"`` for servers whose kernel or supervisor was killed.

    Returns
    -------
    ServerList
        The servers that were stopped.

    Raises
    ------
    ArgumentValueError
        If there is no server of that name or URL.
    """
    with registry.exclusive():
        swept = registry.sweep()
    running = registry.records()
    records = [*swept, *running]
    if which == "all":
        return _end(records)
    if which == "orphans":
        return _end(filter(registry.is_orphan, records))
    chosen = [record for record in records if which.rstrip("/") in (record.name, record.url)]
    if not chosen:
        names = ", ".join(repr(record.name) for record in running) or "none runs"
        raise ArgumentValueError(
            f"There is no server {which!r}", hint=f"Names of servers that run: {names}; or 'all', 'orphans'."
        )
    return _end(chosen)


def _end(records: Iterable[ServerRecord]) -> ServerList:
    ended = [(record, _info(record, state="stopped")) for record in records]
    for record, _ in ended:  # all are asked before any is waited for
        if record.supervisor is not None:
            send(record.supervisor, signal.SIGTERM)
    for record, _ in ended:
        end_server(record)
    return ServerList(info for _, info in ended)


def _info(record: ServerRecord, state: str | None = None) -> ServerInfo:
    if record.keep_alive and registry.is_held(record):
        owner = "kept"
    elif registry.is_orphan(record):
        owner = "orphan"
    else:
        owner = "this kernel" if record.owner == identify(os.getpid()) else "another kernel"
    return ServerInfo(
        name=record.name,
        model=record.model,
        engine=record.engine,
        url=record.url,
        state=state or (record.state if registry.is_held(record) else "left over"),
        owner=owner,
        age=max(0.0, time.time() - record.started),
        pid=None if record.server is None else record.server.pid,
    )
