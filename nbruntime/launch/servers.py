"""List and stop the servers of this kernel, and those of this user's other kernels on this machine."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from nbruntime.display.cards import Card, CardMixin, table, text_table
from nbruntime.display.html import escape, visible
from nbruntime.display.numbers import elapsed
from nbruntime.endpoint.cards import model_name
from nbruntime.errors import ArgumentTypeError, ArgumentValueError
from nbruntime.launch import registry
from nbruntime.launch.server import end_server, open_server
from nbruntime.launch.supervisor.processes import is_running, send
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
        Name of its model, as the server gives it once it is ready; ``sglang`` or ``embedded``.
    state : str
        ``starting``, ``ready``, ``stopping``, ``stopped``, or ``left over`` when its supervisor was killed.
    owner : str
        ``this kernel``, ``another kernel``, ``kept`` for one that has outlived its kernel, or ``orphan``. One
        that will outlive its kernel is ``this kernel, kept`` or ``another kernel, kept``.
    age, pid : float, int or None
        Seconds since it was started; process id, None before it is started.
    started_by : str
        Notebook that started it where that is known, else the process, such as ``process 4711``.
    held_by : str
        What keeps a server of this kernel, such as ``runtime, Out[3]``; empty if that is not known.
    """

    name: str
    model: str
    engine: str
    url: str
    state: str
    owner: str
    age: float
    pid: int | None
    started_by: str = ""
    held_by: str = ""

    @property
    def whose(self) -> str:
        """The owner, with the notebook or process if that is not this one."""
        mine = self.owner.startswith("this kernel") or not self.started_by
        return self.owner if mine else f"{self.owner}: {self.started_by}"

    def cells(self) -> dict[str, str]:
        """Return what a table shows, by the heads of its columns."""
        return {
            **{field: getattr(self, field) for field in ("name", "model", "engine", "url", "state")},
            "owner": self.whose,
            "age": elapsed(self.age),
            "pid": "" if self.pid is None else str(self.pid),
            "held by": self.held_by,
        }


class ServerList(CardMixin, list[ServerInfo]):
    """Servers, with a table as their repr; `note` is a line below it."""

    def __init__(self, servers: Iterable[ServerInfo] = (), *, note: str = "") -> None:
        super().__init__(servers)
        self.note = note

    def __repr__(self) -> str:
        return visible("\n".join(filter(None, [self._table(), self.note])))

    def _table(self) -> str:
        if not self:
            return "No servers"
        return text_table(self._grid("name", "model", "engine", "url", "state", "owner", "age", "held by"))

    def _grid(self, *heads: str) -> list[list[str]]:
        """Return the heads and a row for each server, without the columns that are empty."""
        rows = [each.cells() for each in self]
        shown = [head for head in heads if any(row[head] for row in rows)]
        return [shown, *([row[head] for head in shown] for row in rows)]

    def _card(self) -> Card:
        if not self:
            hint = self.note or "Runtime(...) starts one."
            return Card("No servers", plain=f"  {hint}", body=f"<div>{escape(hint)}</div>")
        grid = self._grid("name", "model", "engine", "state", "owner", "age", "held by", "pid", "url")
        body = table(grid, heads=True)
        if self.note:
            body += f'<div class="nbr-quiet">{escape(self.note)}</div>'
        return Card(f"{len(self)} server" + "s" * (len(self) != 1), body=body, plain=repr(self))


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


def stop(which: str = "all") -> ServerList:
    """Stop servers, and wait until nothing is left of them.

    Parameters
    ----------
    which : str
        ``"all"`` for the servers that this kernel started; ``"everywhere"`` for those of all kernels of this
        user on this machine; ``"orphans"`` for those whose kernel or supervisor was killed; or a server's
        name or URL, of any kernel.

    Returns
    -------
    ServerList
        The servers that were stopped.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        If it is not a text; if there is no server of that name or URL.
    """
    if not isinstance(which, str):
        raise ArgumentTypeError(
            f"The server to stop is an object of the type {type(which).__name__}, not a name or URL",
            where="which",
            hint="For example nbruntime.stop(runtime.url); runtime.shutdown() does the same.",
        )
    with registry.exclusive():
        swept = registry.sweep()
    running = registry.records()
    records = [*swept, *running]
    if which == "all":
        left = [record for record in running if not registry.is_mine(record)]
        return _end([*swept, *filter(registry.is_mine, running)], note=_others(left))
    if which == "everywhere":
        return _end(records)
    if which == "orphans":
        return _end(filter(registry.is_orphan, records))
    chosen = [record for record in records if which.rstrip("/") in (record.name, record.url)]
    if not chosen:
        names = ", ".join(repr(record.name) for record in running) or "none"
        raise ArgumentValueError(
            f"There is no server {which!r}",
            hint=f"Running servers: {names}. Several at once: {', '.join(map(repr, registry.RESERVED))}.",
        )
    return _end(chosen)


def _others(left: list[ServerRecord]) -> str:
    """Return the line about the servers that were left running."""
    names = ", ".join(record.name for record in left)
    start = "Left running, since this kernel did not start them"
    return f"{start}: {names}. nbruntime.stop('everywhere') stops them too." if names else ""


def _end(records: Iterable[ServerRecord], note: str = "") -> ServerList:
    ended = [(record, replace(_info(record), state="stopped", held_by="")) for record in records]
    for record, _ in ended:  # all are asked before any is waited for
        if record.supervisor is not None:
            send(record.supervisor, signal.SIGTERM)
    for record, _ in ended:
        end_server(record)
    return ServerList((info for _, info in ended), note=note)


def _info(record: ServerRecord) -> ServerInfo:
    server = open_server(record.directory)
    if registry.is_orphan(record):
        owner = "orphan"
    else:
        mine, lives = registry.is_mine(record), is_running(record.owner)
        kernel = "this kernel" if mine else "another kernel" if lives else ""
        owner = ", ".join(filter(None, [kernel, "kept" if record.keep_alive else ""]))
    return ServerInfo(
        name=record.name,
        model=model_name({"model_path": record.model}),
        engine=record.engine,
        url=record.url,
        state=record.state if registry.is_held(record) else "left over",
        owner=owner,
        age=max(0.0, time.time() - record.started),
        pid=None if record.server is None else record.server.pid,
        started_by=record.started_by,
        held_by="" if server is None else server.held_by,
    )
