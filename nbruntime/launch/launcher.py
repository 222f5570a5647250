"""From arguments to a server that takes requests: a new one, or one that already runs."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from nbruntime.endpoint import RuntimeEndpoint
from nbruntime.endpoint.cards import served_name
from nbruntime.errors import (
    ArgumentValueError,
    AuthenticationError,
    LaunchTimeoutError,
    PortInUseError,
    ServerConnectionError,
)
from nbruntime.launch import registry
from nbruntime.launch.arguments import AUTO_KEY
from nbruntime.launch.attached import AttachedServer
from nbruntime.launch.engines.server_kind import AcceptedArguments, ServerKind
from nbruntime.launch.phases import Phase
from nbruntime.launch.ports import FIRST_PORT, PortClaim, claim_port, holders_of
from nbruntime.launch.process import ServerProcess
from nbruntime.launch.readiness import await_ready, launch_error
from nbruntime.launch.server import Server, end_server, open_server
from nbruntime.launch.supervisor.processes import is_running
from nbruntime.launch.supervisor.record import ServerRecord
from nbruntime.protocol.hosts import is_loopback
from nbruntime.secrets import Secret, is_secret_name

__all__ = ["Launcher", "SameServerWarning"]

PORT_ATTEMPTS = 8
"""Ports to try when another process takes the port before the server binds it."""

Launched = tuple[Server, RuntimeEndpoint, bool]
"""A server, its client, and whether the server is new."""


class SameServerWarning(UserWarning):
    """A server with the same arguments runs already, and another one is started."""


@dataclass(frozen=True)
class Launcher:
    """Start a server, or find one that already runs.

    `env`, `host`, `port`, `name` and `keep_alive` are those of `Runtime`; `timeout` is in seconds.
    """

    kind: ServerKind
    arguments: AcceptedArguments = field(repr=False)
    env: Mapping[str, str | None] = field(repr=False)
    host: str
    port: int | None
    timeout: float
    name: str | None
    keep_alive: bool
    # Called with the URL when the port is claimed, and again with the server when it is started.
    on_start: Callable[[str, Server | None], None]
    on_phase: Callable[[Phase], None]
    connect: Callable[[str, str | None], RuntimeEndpoint]  # takes the URL and the key

    def get_or_start(self, *, reuse: bool, replace: bool) -> Launched:
        """Return a server with these arguments, its client, and whether the server is new.

        Parameters
        ----------
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
        if self.arguments.keys.get("admin_api_key") == AUTO_KEY:
            raise ArgumentValueError(
                "admin_api_key='auto' would be a key that everybody can guess",
                hint="Give a key of your own; only for api_key, 'auto' makes one.",
            )
        if self.name is None and not reuse:
            return self._start()
        turn = self.name or json.dumps(self._describe("")["values"], sort_keys=True)
        with _turns.setdefault(turn, threading.RLock()):
            deadline = time.monotonic() + self.timeout
            while True:
                found = self._find()
                if found is None:
                    try:
                        return self._start()
                    except registry.NameTaken:
                        continue  # another kernel was faster
                differences = self._differences(found)
                _check_belongs(found)
                if _is_ending(found) or (replace and (differences or not reuse)):
                    end_server(found)
                    continue
                if not reuse or differences:
                    raise _taken_error(found, differences if reuse else [])
                if (attached := self._attach(found)) is not None:
                    return attached
                if time.monotonic() > deadline:
                    raise LaunchTimeoutError(
                        f"Timed out after {self.timeout:g} s waiting for server {found.name!r}"
                        " to start or stop",
                        cause=f"process {found.owner.pid} has its name",
                        hint=f"Stop it: nbruntime.stop({found.name!r}).",
                    )

    # A running server

    def warn_of_same(self, stacklevel: int) -> None:
        """Warn with a `SameServerWarning` if an unnamed server with these arguments runs already."""
        unnamed = [] if self.name is not None else [each for each in self._matching() if not each.named]
        if unnamed:
            first = unnamed[0]  # the same text for each further launch, so that Python says it once
            server = open_server(first.directory)
            held = "" if server is None or not server.held_by else f", held by {server.held_by}"
            warnings.warn(
                f"The same server runs already: {first.name} ({first.url}){held}. Runtime(..., reuse=True) "
                f"takes it instead of starting another one; nbruntime.stop({first.name!r}) ends it.",
                SameServerWarning,
                stacklevel=stacklevel + 1,
            )

    def _find(self) -> ServerRecord | None:
        """Find the server of this name; without a name, the latest one with these arguments."""
        if self.name is not None:
            return registry.find(self.name)
        return next(reversed(self._matching()), None)

    def _matching(self) -> list[ServerRecord]:
        """List the running servers with these arguments that may be used here, the oldest first."""
        return [
            record
            for record in registry.records()
            if (record.state == "ready" or open_server(record.directory))
            and registry.is_held(record)
            and (record.keep_alive or registry.is_mine(record))
            and not _is_ending(record)
            and not self._differences(record)
        ]

    def _attach(self, record: ServerRecord) -> Launched | None:
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
            made = self.arguments.keys.get("api_key") == AUTO_KEY
            client = self.connect(
                record.url, registry.key_of(record) if made else self.arguments.keys.get("api_key")
            )
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
        return server, client, False

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
                    log_lines=server.log_lines(),
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
        for name, key in self.arguments.keys.items():
            values[name] = AUTO_KEY if key == AUTO_KEY else "***"
        environment = {name: value and _digest(value, salt) for name, value in self.env.items()}
        identity = {"salt": salt, "values": values, "env": environment}
        as_json: dict[str, Any] = json.loads(json.dumps(identity, default=str))
        return as_json

    def _differences(self, record: ServerRecord) -> list[str]:
        """List the arguments in which a running server differs."""
        theirs = record.arguments
        mine = self._describe(theirs.get("salt", ""))
        found = []
        missing = object()
        for section in ("values", "env"):
            new, old = mine[section], theirs.get(section, {})
            for name in sorted({*new, *old}):
                if new.get(name, missing) == old.get(name, missing):
                    continue
                if section == "env":  # its values may be secret
                    found.append(f"env[{name!r}]")
                else:
                    found.append(f"{name}: {_shown(old, name)}, now {_shown(new, name)}")
        port = urlsplit(record.url).port
        if self.port and self.port != port:
            found.append(f"port: {port}, now {self.port}")
        return found

    # A new server

    def _start(self) -> Launched:
        above, attempts = FIRST_PORT, PORT_ATTEMPTS
        while True:
            claim = claim_port(self.host, self.port, listen=self.kind.takes_listener, above=above)
            try:
                return self._start_on(claim)
            except PortInUseError:
                attempts -= 1
                if self.port or not attempts:
                    raise
                above = claim.port + 1

    def _start_on(self, claim: PortClaim) -> Launched:
        """Start the server on a claimed port and wait until it is ready; stop it on failure."""
        with claim:
            self.on_start(claim.url, None)
            self.on_phase(Phase("starting"))
            arguments = self._with_key()
            spec = self.kind.command(arguments, claim)
            hidden = [value for name, value in self.env.items() if value and is_secret_name(name)]
            spec = replace(spec, env=spec.env | dict(self.env), secrets=[*spec.secrets, *hidden])
            server = ServerProcess(
                spec,
                record=self._claim_name(claim.url, arguments),
                hold=[claim.reservation] if claim.reservation else [],
            )
        try:
            self.on_start(claim.url, server)
            await_ready(server, self.kind, claim.url, timeout=self.timeout, on_phase=self.on_phase)
            if not self.kind.takes_listener:
                _check_port(server, claim)
            client = self._connect_to_new(server, arguments)
            server.tell_ready(served_name(client.model_info))
        except BaseException:
            server.stop()
            raise
        return server, client, True

    def _with_key(self) -> AcceptedArguments:
        """Return the arguments with a new key if one is to be made."""
        keys = self.arguments.keys
        if keys.get("api_key") != AUTO_KEY:
            return self.arguments
        return replace(self.arguments, keys={**keys, "api_key": secrets.token_urlsafe()})

    def _connect_to_new(self, server: ServerProcess, arguments: AcceptedArguments) -> RuntimeEndpoint:
        """Make the client; if the server dies meanwhile, raise an error with its log."""
        try:
            return self.connect(server.record.url, arguments.keys.get("api_key"))
        except ServerConnectionError as error:
            if server.wait_until_gone(0.5) or not server.usable:
                raise launch_error(server, self.kind, Phase("connecting")) from error
            raise

    def _claim_name(self, url: str, arguments: AcceptedArguments) -> ServerRecord:
        model = self.kind.model_of(arguments)
        made = arguments is not self.arguments
        return registry.claim(
            self.name,
            key=Secret(arguments.keys.get("api_key")) if made else None,
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


def _check_belongs(record: ServerRecord) -> None:
    """Raise ArgumentValueError if the server belongs to another kernel."""
    if not record.keep_alive and not registry.is_mine(record) and is_running(record.owner):
        raise ArgumentValueError(
            f"The name {record.name!r} belongs to a server of another kernel, {record.started_by}",
            where=record.url,
            hint=f"Choose another name, or end that server: nbruntime.stop({record.name!r}).",
        )


def _taken_error(record: ServerRecord, differences: list[str]) -> ArgumentValueError:
    message = f"A server named {record.name!r} runs already"
    hint = "Use it with reuse=True, end it with replace=True, or choose another name."
    if differences:
        message = f"The server {record.name!r} runs with other arguments: {'; '.join(differences)}"
        hint = "Give the same arguments, another name, or replace=True to end it and start anew."
    return ArgumentValueError(message, where=record.url, hint=hint)


def _is_ending(record: ServerRecord) -> bool:
    """Return True if the server is about to end, though it still has its name."""
    server = open_server(record.directory)
    if server is not None:
        return not server.usable
    # Without an object, a server of this process was just released, or another thread is starting it.
    return record.state == "stopping" or not (record.keep_alive or record.server is None)


def _digest(value: str, salt: str) -> str:
    """Hash a text so that it can be compared but not read."""
    return hashlib.blake2b(value.encode(), key=salt.encode(), digest_size=8).hexdigest()


def _shown(values: Mapping[str, Any], name: str) -> str:
    return repr(values[name]) if name in values else "not given"


_turns: dict[str, threading.RLock] = {}
"""Locks that let one thread at a time find or start a server."""
