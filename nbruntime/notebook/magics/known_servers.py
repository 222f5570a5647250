"""Names of the servers that a session knows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from nbruntime.errors import ServerConnectionError
from nbruntime.launch.holders import PLACES
from nbruntime.launch.phases import ENDED_PHASES
from nbruntime.protocol.nearest_names import nearest_name

if TYPE_CHECKING:
    from nbruntime.endpoint import RuntimeEndpoint
    from nbruntime.launch.servers import ServerInfo
    from nbruntime.runtime import Runtime

HOW_TO_GET_ONE = "%sgl_launch starts one, and %sgl_connect URL connects to one that runs."

_named: dict[str, Runtime | RuntimeEndpoint] = {}
# A module variable, since servers outlive a reload of the extension.
PLACES["%sgl_launch --name"] = _named


@dataclass(frozen=True, slots=True)
class KnownServer:
    """A server and its name in this session: of `%sgl_launch` or `%sgl_connect`, or of a variable."""

    name: str
    client: RuntimeEndpoint
    runtime: Runtime | None = None  # if this session owns the server

    @property
    def url(self) -> str:
        """Its address."""
        return self.client.base_url

    @property
    def names(self) -> list[str]:
        """Its name in this session, and its name in other kernels."""
        own = None if self.runtime is None else self.runtime.name
        return list(dict.fromkeys(filter(None, [self.name, own])))

    @property
    def model(self) -> str:
        """Its model, without a request."""
        from nbruntime.endpoint.cards import model_name

        return model_name(self.client.last_model_info)

    @property
    def state(self) -> str:
        """The runtime's phase, or ``connected``; without a request."""
        return "connected" if self.runtime is None else self.runtime.phase

    @property
    def endpoint(self) -> RuntimeEndpoint:
        """Its client; raises ServerConnectionError if the server has ended."""
        if self.state in ENDED_PHASES:
            raise ServerConnectionError(
                f"The server {self.name!r} has {self.state}",
                where=self.url,
                hint=f"%sgl_logs {self.name} has the end of its log; {HOW_TO_GET_ONE}",
            )
        return self.client


class KnownServers:
    """Servers that ``--endpoint NAME`` can name: of `%sgl_launch`, `%sgl_connect` and variables."""

    def __init__(self, variables: Callable[[], Mapping[str, Any]]) -> None:
        self._variables = variables

    def add(self, name: str, server: Runtime | RuntimeEndpoint) -> KnownServer:
        """Add a server in place of one of the same name, unless that runs and belongs to this session."""
        known, before = _known(name, server), _running_here(name)
        if known.runtime is None and before is not None:
            if before.url == known.url:
                return before
            raise UsageError(
                f"{name} is a server that was launched here; removing its name would stop it.\n"
                f"Give another name with --name, or stop the server first: %sgl_stop {name}."
            )
        _named[name] = server
        return known

    def forget_ended(self, urls: Container[str]) -> None:
        """Remove the names of servers that have ended, and of servers with the given URLs."""
        for known in self._with_names():
            if known.url in urls or known.state in ENDED_PHASES:
                del _named[known.name]

    def all(self) -> list[KnownServer]:
        """Return every server once: running ones first, then named ones."""
        found: dict[str, KnownServer] = {}
        for known in self._here():
            found.setdefault(known.url, known)
        return list(found.values())

    def names(self) -> list[str]:
        """Return all names, including those of variables and of servers in other kernels."""
        here = [known.name for known in self._here()]
        return list(dict.fromkeys([*here, *(info.name for info in _elsewhere())]))

    def named(self, name: str) -> KnownServer | None:
        """Return the server of this session with this name or URL, if any."""
        return next((known for known in self._here() if name in (*known.names, known.url)), None)

    def name_for(self, endpoint: RuntimeEndpoint) -> str:
        """Return the name of the server, or a new one from its model."""
        for known in self._with_names():
            if known.url == endpoint.base_url:
                return known.name
        stem = KnownServer("", endpoint).model.rpartition("/")[2]
        taken = {known.name for known in self._with_names()}
        return next(name for n in count(1) if (name := stem if n == 1 else f"{stem}-{n}") not in taken)

    def find(self, name: str | None) -> KnownServer:
        """Return the server of a name; without a name, the only one that runs, or else that has ended."""
        if name:
            return self._by_name(name)
        known = self.all()
        candidates = [each for each in known if each.state not in ENDED_PHASES] or known
        if not candidates:
            raise UsageError(f"No server is known here.\n{HOW_TO_GET_ONE}")
        if len(candidates) > 1:
            names = ", ".join(each.name for each in candidates)
            raise UsageError(
                f"Several servers are known: {names}.\n"
                "Choose one with --endpoint NAME, or for all cells with %sgl_use NAME."
            )
        return candidates[0]

    def _by_name(self, name: str) -> KnownServer:
        if known := self.named(name):
            return known
        for info in _elsewhere():
            if name in (info.name, info.url):
                from nbruntime.endpoint import RuntimeEndpoint
                from nbruntime.launch import registry

                record = registry.find(info.name)
                key = None if record is None else registry.key_of(record)
                return self.add(info.name, RuntimeEndpoint(info.url, key))
        names = self.names()
        meant = nearest_name(name, names)
        if meant:
            hint = f"Did you mean {meant}?"
        else:
            hint = f"Known are: {', '.join(names)}." if names else HOW_TO_GET_ONE
        value = self._variables().get(name)
        other = "" if value is None else f"; the variable {name} is a {type(value).__name__}"
        raise UsageError(f"There is no server {name!r}{other}.\n{hint}")

    def _here(self) -> list[KnownServer]:
        # A running server may have the name and address of one that has ended.
        known = [*self._with_names(), *self._in_variables()]
        return sorted(known, key=lambda each: each.state in ENDED_PHASES)

    def _with_names(self) -> Iterable[KnownServer]:
        return [_known(name, server) for name, server in _named.items()]

    def _in_variables(self) -> Iterable[KnownServer]:
        # A class that was never imported has no instances.
        homes = (("nbruntime.runtime", "Runtime"), ("nbruntime.endpoint.runtime_endpoint", "RuntimeEndpoint"))
        kinds = tuple(getattr(sys.modules[home], kind) for home, kind in homes if home in sys.modules)
        return [
            _known(name, value)
            for name, value in list(self._variables().items())
            if not name.startswith("_") and isinstance(value, kinds)
        ]


def _known(name: str, server: Runtime | RuntimeEndpoint) -> KnownServer:
    client: RuntimeEndpoint | None = getattr(server, "endpoint", None)
    return KnownServer(name, server) if client is None else KnownServer(name, client, server)  # type: ignore[arg-type]


def _running_here(name: str) -> KnownServer | None:
    """Return the running server of this name that the session owns."""
    known = _known(name, _named[name]) if name in _named else None
    return None if known is None or known.runtime is None or known.state in ENDED_PHASES else known


def _elsewhere() -> list[ServerInfo]:
    """Return the running servers of this user, including those of this session."""
    from nbruntime.launch.servers import servers

    return [info for info in servers() if info.state in ("starting", "ready")]
