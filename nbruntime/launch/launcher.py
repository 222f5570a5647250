"""From arguments to a server that takes requests: a new one, or one that already runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from nbruntime.errors import (
    ArgumentValueError,
    AuthenticationError,
    LaunchTimeoutError,
    PortInUseError,
    ServerConnectionError,
)
from nbruntime.launch import registry
from nbruntime.launch.attached import AttachedServer
from nbruntime.launch.engines.server_kind import AcceptedArguments, ServerKind
from nbruntime.launch.phases import Phase
from nbruntime.launch.ports import FIRST_PORT, PortClaim, claim_port, holders_of
from nbruntime.launch.process import ServerProcess
from nbruntime.launch.readiness import LOG_LINES, await_ready, launch_error
from nbruntime.launch.server import Server, open_server
from nbruntime.launch.supervisor.processes import identify, is_running
from nbruntime.launch.supervisor.record import ServerRecord
from nbruntime.protocol.hosts import is_loopback
from nbruntime.secrets import is_secret_name

__all__ = ["Launcher"]

Client = TypeVar("Client")

PORT_ATTEMPTS = 8
"""Ports to try when another process takes the port before the server binds it."""


@dataclass(frozen=True)
class Launcher:
    """Start a server, or find one that already runs.

    Parameters
    ----------
    kind, arguments : ServerKind, AcceptedArguments
        Kind of server, and the server arguments that it has checked.
    env : mapping
        Additions to the server's environment.
    host, port : str, int or None
        As in `claim_port`.
    timeout : float
        Seconds that the launch may take.
    name : str or None
        Name of the server; None to make one from the model's name.
    keep_alive : bool
        Whether the server outlives this process.
    on_start, on_phase : callable
        Called with the URL when the port is claimed, and again with the server when it is started; called
        with every new `Phase`.
    """

    kind: ServerKind
    arguments: AcceptedArguments = field(repr=False)
    env: Mapping[str, str | None] = field(repr=False)
    host: str
    port: int | None
    timeout: float
    name: str | None
    keep_alive: bool
    on_start: Callable[[str, Server | None], None]
    on_phase: Callable[[Phase], None]

    def get_or_start(
        self, connect: Callable[[str], Client], *, reuse: bool, replace: bool
    ) -> tuple[Server, Client, bool]:
        """Return a server with these arguments, its client, and whether the server is new.

        Parameters
        ----------
        connect : callable
            Makes a client from a URL; asks the server for its model.
        reuse : bool
            Whether a running server may be used: one of this process, or one that was kept alive.
        replace : bool
            Whether a different server of the same name may be stopped.

        Raises
        ------
        ArgumentValueError
            If another server has the name, or other machines can reach `host` without a key.
        LaunchError
            If the server does not start.
        """
        if self.name is not None:
            registry.check_name(self.name)
        if not is_loopback(self.host) and not self.arguments.keys.get("api_key"):
            raise ArgumentValueError(
                f"host={self.host!r} can be reached from other machines, and there is no API key",
                hint="Give api_key=..., or leave host out to listen on this machine only.",
            )
        if self.name is None and not reuse:
            return *self._start(connect), True
        with _turn(self.name or json.dumps(self._describe("")["values"], sort_keys=True)):
            deadline = time.monotonic() + self.timeout
            while True:
                found = self._find()
                if found is None:
                    try:
                        return *self._start(connect), True
                    except registry.NameTaken:
                        continue  # another kernel was faster
                differences = self._differences(found)
                self._check_belongs(found)
                if _is_ending(found) or (replace and (differences or not reuse)):
                    _end(found)
                    continue
                if not reuse or differences:
                    raise self._taken_error(found, differences if reuse else [])
                if (obtained := self._attach(found, connect)) is not None:
                    return *obtained, False
                if time.monotonic() > deadline:
                    raise LaunchTimeoutError(
                        f"Timed out after {self.timeout:g} s waiting for server {found.name!r}"
                        " to start or stop",
                        cause=f"process {found.owner.pid} has its name",
                        hint=f"Stop it: nbruntime.stop({found.name!r}).",
                    )

    # A running server

    def _find(self) -> ServerRecord | None:
        """Find the server of this name; without a name, the latest one with these arguments."""
        if self.name is not None:
            return registry.find(self.name)
        me = identify(os.getpid())
        return next(
            (
                record
                for record in reversed(registry.records())
                if (record.state == "ready" or open_server(record.directory))
                and registry.is_held(record)
                and (record.keep_alive or record.owner == me)
                and not _is_ending(record)
                and not self._differences(record)
            ),
            None,
        )

    def _attach(self, record: ServerRecord, connect: Callable[[str], Client]) -> tuple[Server, Client] | None:
        """Connect to a running server; None if it has ended."""
        server = open_server(record.directory)
        if server is None:
            current = ServerRecord.read(record.directory)
            if current is None or current.server is None:  # ending, or about to be started by its owner
                time.sleep(0.02)
                return None
            try:
                server = AttachedServer(current)
            except OSError:
                return None
        self.on_start(record.url, server)
        if record.state != "ready" and not self._await_other(server):
            return None
        try:
            client = connect(record.url)
        except ServerConnectionError:
            if server.wait_until_gone(0.5):
                return None
            raise
        except AuthenticationError as error:
            raise ArgumentValueError(
                f"The server {record.name!r} runs with another API key",
                where=record.url,
                hint="Give its api_key=..., or replace=True to end it and start anew.",
            ) from error
        self.on_phase(Phase("ready"))
        return server, client

    def _await_other(self, server: Server) -> bool:
        """Wait until a server that another process started is ready; False if it ended."""
        deadline = time.monotonic() + self.timeout
        while not self.kind.is_ready(server.record.url, max(0.0, deadline - time.monotonic())):
            if server.wait_until_gone(self.kind.probe_interval):
                return False
            if time.monotonic() > deadline:
                raise LaunchTimeoutError(
                    f"The server {server.record.name!r} was not ready within {self.timeout:g} s",
                    cause=f"process {server.record.owner.pid} had started it",
                    log_lines=server.logs(LOG_LINES).splitlines(),
                )
        return True

    def _describe(self, salt: str) -> dict[str, Any]:
        """Return what identifies the server, as JSON types, with secrets hashed."""
        values: dict[str, Any] = {"engine": self.kind.name, "python": self.kind.python}
        for name, value in self.arguments.values.items():
            if is_secret_name(name):
                value = _digest(str(value), salt)
            elif isinstance(value, str) and os.path.exists(value):
                value = os.path.abspath(value)  # the same from another folder
            values[name] = value
        values |= {"host": self.host, "keep_alive": self.keep_alive}
        values |= dict.fromkeys(self.arguments.keys, "***")
        environment = {name: value and _digest(value, salt) for name, value in self.env.items()}
        described: dict[str, Any] = json.loads(
            json.dumps({"salt": salt, "values": values, "env": environment}, default=str)
        )
        return described

    def _differences(self, record: ServerRecord) -> list[str]:
        """List the arguments in which a running server differs."""
        theirs = record.arguments
        mine = self._describe(theirs.get("salt", ""))
        found = []
        for section, sign in (("values", "{}"), ("env", "env[{!r}]")):
            one, other = mine[section], theirs.get(section, {})
            for name in sorted({*one, *other}):
                if one.get(name) != other.get(name) or (name in one) != (name in other):
                    said = f": {_shown(other, name)}, now {_shown(one, name)}" if section == "values" else ""
                    found.append(sign.format(name) + said)
        port = urlsplit(record.url).port
        if self.port and self.port != port:
            found.append(f"port: {port}, now {self.port}")
        return found

    def _check_belongs(self, record: ServerRecord) -> None:
        if not record.keep_alive and record.owner != identify(os.getpid()) and is_running(record.owner):
            raise ArgumentValueError(
                f"The name {record.name!r} belongs to a server of another kernel, process {record.owner.pid}",
                where=record.url,
                hint=f"Choose another name, or end that server: nbruntime.stop({record.name!r}).",
            )

    def _taken_error(self, record: ServerRecord, differences: list[str]) -> ArgumentValueError:
        if differences:
            return ArgumentValueError(
                f"The server {record.name!r} runs with other arguments: {'; '.join(differences)}",
                where=record.url,
                hint="Give the same arguments, another name, or replace=True to end it and start anew.",
            )
        return ArgumentValueError(
            f"A server named {record.name!r} runs already",
            where=record.url,
            hint="Use it with reuse=True, end it with replace=True, or choose another name.",
        )

    # A new server

    def _start(self, connect: Callable[[str], Client]) -> tuple[Server, Client]:
        above = FIRST_PORT
        for attempt in range(1, PORT_ATTEMPTS + 1):
            claim = claim_port(self.host, self.port, listen=self.kind.takes_listener, above=above)
            try:
                return self._start_on(claim, connect)
            except PortInUseError:
                if self.port or attempt == PORT_ATTEMPTS:
                    raise
                above = claim.port + 1
        raise AssertionError("the last attempt has returned or raised")

    def _start_on(self, claim: PortClaim, connect: Callable[[str], Client]) -> tuple[Server, Client]:
        """Start the server on a claimed port and wait until it is ready; stop it on failure."""
        try:
            self.on_start(claim.url, None)
            self.on_phase(Phase("starting"))
            spec = self.kind.command(self.arguments, claim)
            spec = replace(spec, env=spec.env | dict(self.env), secrets=[*spec.secrets, *self._secrets()])
            server = ServerProcess(
                spec,
                record=self._claim_name(claim.url),
                hold=() if claim.reservation is None else (claim.reservation,),
            )
        finally:
            claim.close()
        try:
            self.on_start(claim.url, server)
            await_ready(server, self.kind, claim.url, timeout=self.timeout, on_phase=self.on_phase)
            if not self.kind.takes_listener:
                _check_port(server, claim)
            client = self._connect(connect, server)
            server.tell_ready()
        except BaseException:
            server.stop()
            raise
        return server, client

    def _connect(self, connect: Callable[[str], Client], server: ServerProcess) -> Client:
        """Make the client; if the server dies meanwhile, raise an error with its log."""
        try:
            return connect(server.record.url)
        except ServerConnectionError as error:
            if server.wait_until_gone(0.5) or not server.usable:
                raise launch_error(server, self.kind, Phase("connecting")) from error
            raise

    def _secrets(self) -> tuple[str, ...]:
        """Return the values of environment variables whose names mark them as secret."""
        return tuple(value for name, value in self.env.items() if value and is_secret_name(name))

    def _claim_name(self, url: str) -> ServerRecord:
        model = str(self.arguments.values.get("model_path") or "")
        return registry.claim(
            self.name,
            stem=os.path.basename(model.rstrip("/")) or self.kind.name,
            url=url,
            engine=self.kind.name,
            model=model,
            arguments=self._describe(secrets.token_hex(8)),
            keep_alive=self.keep_alive,
        )


def _check_port(server: Server, claim: PortClaim) -> None:
    """Raise PortInUseError if a process outside of the server's tree listens on the port."""
    holders = holders_of(claim.host, claim.port)
    if holders and not any(map(server.owns, holders)):
        raise PortInUseError(
            f"Port {claim.port} was taken by process {holders[0]} while the server was loading"
        )


def _is_ending(record: ServerRecord) -> bool:
    """Return True if the server is about to end, though it still has its name."""
    server = open_server(record.directory)
    if server is not None:
        return not server.usable
    # Without an object, a server of this process was just released, or another thread is starting it.
    return record.state == "stopping" or not (record.keep_alive or record.server is None)


def _end(record: ServerRecord) -> None:
    server = open_server(record.directory)
    if server is not None:
        server.stop()
    registry.end(record)


def _digest(value: str, salt: str) -> str:
    """Hash a text so that it can be compared but not read."""
    return hashlib.blake2b(value.encode(), key=salt.encode(), digest_size=8).hexdigest()


def _shown(values: Mapping[str, Any], name: str) -> str:
    return repr(values[name]) if name in values else "not given"


_turns: dict[str, threading.RLock] = {}
_turns_lock = threading.Lock()


@contextlib.contextmanager
def _turn(key: str) -> Iterator[None]:
    """Let one thread at a time find or start a server."""
    with _turns_lock:
        turn = _turns.setdefault(key, threading.RLock())
    with turn:
        yield
