"""The servers that a session knows, by name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from nbruntime.errors import ServerConnectionError
from nbruntime.launch.phases import ENDED_PHASES
from nbruntime.protocol.requests import nearest

if TYPE_CHECKING:
    from nbruntime.endpoint import RuntimeEndpoint
    from nbruntime.launch.servers import ServerInfo
    from nbruntime.runtime import Runtime

HOW_TO_GET_ONE = "%sgl_launch starts one, and %sgl_connect URL connects to one that runs."

_named: dict[str, Runtime | RuntimeEndpoint] = {}
# Here and not in the extension: servers outlive its reload.


@dataclass(frozen=True, slots=True)
class KnownServer:
    """A server with the name that it has here.

    Parameters
    ----------
    name : str
        From `%sgl_launch` or `%sgl_connect`, or that of a variable.
    client : RuntimeEndpoint
    runtime : Runtime or None
        Its owner, if that is of this session.
    """

    name: str
    client: RuntimeEndpoint
    runtime: Runtime | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return self.client.base_url

    @property
    def names(self) -> list[str]:
        """Its name here, and the one that other kernels know it by."""
        own = None if self.runtime is None else self.runtime.name
        return list(dict.fromkeys(filter(None, [self.name, own])))

    @property
    def model(self) -> str:
        """Its model, as far as it is known without asking."""
        from nbruntime.endpoint.cards import model_name

        return model_name(self.client.model_info)

    @property
    def state(self) -> str:
        """How it is, as far as it is known without asking."""
        return "connected" if self.runtime is None else self.runtime.phase

    @property
    def endpoint(self) -> RuntimeEndpoint:
        """Its client.

        Raises
        ------
        ServerConnectionError
            If it is known to have ended.
        """
        if self.state in ENDED_PHASES:
            raise ServerConnectionError(
                f"The server {self.name!r} has {self.state}",
                where=self.url,
                hint=f"%sgl_logs {self.name} has the end of its log; {HOW_TO_GET_ONE}",
            )
        return self.client


class KnownServers:
    """What ``--endpoint NAME`` may name: servers of `%sgl_launch` and `%sgl_connect`, and those in variables.

    Parameters
    ----------
    variables : callable
        Gives the user's namespace.
    """

    def __init__(self, variables: Callable[[], Mapping[str, Any]]) -> None:
        self._variables = variables

    def add(self, name: str, server: Runtime | RuntimeEndpoint) -> KnownServer:
        """Remember a server; one of the same name is forgotten, unless that would end it.

        Raises
        ------
        UsageError
            If the name is that of another server, which was launched here and runs.
        """
        known, before = _known(name, server), _running_here(name)
        if known.runtime is None and before is not None:
            if before.url == known.url:
                return before
            raise UsageError(
                f"{name} is a server that was launched here, and to forget it would end it.\n"
                f"Give another name with --name, or end it first: %sgl_stop {name}."
            )
        _named[name] = server
        return known

    def forget_ended(self, urls: Container[str]) -> None:
        """Forget the names of servers that have ended, and of those at some URLs."""
        for known in self._with_names():
            if known.url in urls or known.state in ENDED_PHASES:
                del _named[known.name]

    def all(self) -> list[KnownServer]:
        """Give every server once: those that run first, and of them those with a name."""
        found: dict[str, KnownServer] = {}
        for known in self._here():
            found.setdefault(known.url, known)
        return list(found.values())

    def names(self) -> list[str]:
        """Give all names, those of variables and of servers in other kernels too."""
        here = [known.name for known in self._here()]
        return list(dict.fromkeys([*here, *(info.name for info in _elsewhere())]))

    def named(self, name: str) -> KnownServer | None:
        """Give the server of this session that has this name or URL, if one has."""
        return next((known for known in self._here() if name in (*known.names, known.url)), None)

    def name_for(self, endpoint: RuntimeEndpoint) -> str:
        """Make a name of the model's, or give the one that the server has already."""
        for known in self._with_names():
            if known.url == endpoint.base_url:
                return known.name
        stem = KnownServer("", endpoint).model.rpartition("/")[2]
        taken = {known.name for known in self._with_names()}
        return next(name for n in count(1) if (name := stem if n == 1 else f"{stem}-{n}") not in taken)

    def find(self, name: str | None) -> KnownServer:
        """Find a server by name, or the only one.

        Parameters
        ----------
        name : str or None
            Without it, servers that have ended count only where there is no other.

        Returns
        -------
        KnownServer

        Raises
        ------
        UsageError
            If there is none of that name, or no name was given and there is not just one.
        """
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

                return self.add(info.name, RuntimeEndpoint(info.url))
        names = self.names()
        meant = nearest(name, names)
        if meant:
            hint = f"Did you mean {meant}?"
        else:
            hint = f"Known are: {', '.join(names)}." if names else HOW_TO_GET_ONE
        value = self._variables().get(name)
        other = "" if value is None else f"; the variable {name} is a {type(value).__name__}"
        raise UsageError(f"There is no server {name!r}{other}.\n{hint}")

    def _here(self) -> list[KnownServer]:
        # A server that has ended may have left its name and its address to one that runs.
        known = [*self._with_names(), *self._in_variables()]
        return sorted(known, key=lambda each: each.state in ENDED_PHASES)

    def _with_names(self) -> Iterable[KnownServer]:
        return [_known(name, server) for name, server in _named.items()]

    def _in_variables(self) -> Iterable[KnownServer]:
        # What has never been imported is in no variable.
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
    """Find the server of this name that the session has launched and owns."""
    known = _known(name, _named[name]) if name in _named else None
    return None if known is None or known.runtime is None or known.state in ENDED_PHASES else known


def _elsewhere() -> list[ServerInfo]:
    """List the servers of this user that run, this session's among them."""
    from nbruntime.launch.servers import servers

    return [info for info in servers() if info.state in ("starting", "ready")]
