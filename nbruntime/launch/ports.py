"""Claiming a port without a race, and finding the process that holds a taken one."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from dataclasses import dataclass
from typing import Any, Self

from nbruntime.errors import ArgumentValueError, PortInUseError

__all__ = ["FIRST_PORT", "PortClaim", "claim_port", "holders_of"]

FIRST_PORT = 30000
"""Where the search for a free port begins: SGLang's default."""

_PORTS_TRIED = 10_000
_CHOICES_TRIED = 8


@dataclass
class PortClaim:
    """A claimed port, and the address that the server listens on.

    Examples
    --------
    >>> PortClaim("0.0.0.0", 30000).url
    'http://127.0.0.1:30000'
    """

    host: str
    port: int
    listener: socket.socket | None = None  # for a server that takes over a listening socket
    # Keeps other runtimes off while a server that binds the port itself is loading.
    reservation: socket.socket | None = None

    @property
    def url(self) -> str:
        """URL at which a client on this machine reaches the server."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def close(self) -> None:
        """Close this process's sockets; the supervisor and the server keep theirs."""
        for held in (self.listener, self.reservation):
            if held is not None:
                held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def claim_port(host: str, port: int | None, *, listen: bool, above: int = FIRST_PORT) -> PortClaim:
    """Claim a port; close the claim once the supervisor has inherited its sockets.

    Parameters
    ----------
    host, port : str, int or None
        Address to listen on; port, 0 for one that the system chooses, None for the first free from `above`.
    listen : bool
        Whether the server takes over a listening socket. Otherwise the port is tried and released, and a
        reservation keeps other runtimes off.
    above : int
        First port to try when `port` is None.

    Raises
    ------
    PortInUseError
        If `port` is taken; names the process that holds it, if that is visible.
    ArgumentValueError
        If there is no such port, or `host` is not an address of this machine.
    """
    if port is not None and not 0 <= port < 1 << 16:
        raise ArgumentValueError(f"port must be between 0 and 65535, not {port}")
    if port:
        return _try(host, port, listen)
    # The system, too, may choose one that is reserved for a server which has not bound it yet.
    candidates = [0] * _CHOICES_TRIED if port == 0 else range(above, min(above + _PORTS_TRIED, 1 << 16))
    for candidate in candidates:
        with contextlib.suppress(PortInUseError):
            return _try(host, candidate, listen, explain=False)
    between = "" if port == 0 else f" between {above} and {candidate}"
    raise PortInUseError(f"No port is free on {host}{between}")


def _try(host: str, port: int, listen: bool, *, explain: bool = True) -> PortClaim:
    try:
        family = _addresses(host, port)[0][0]
    except socket.gaierror as error:
        raise ArgumentValueError(f"host={host!r} is not an address: {error.strerror}") from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    reservation = None
    try:
        # Connections of an earlier server that are still in TIME_WAIT do not matter.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        port = listener.getsockname()[1]
        reservation = _reserve(port)
        listener.listen(1024)  # only this finds two that have bound the same port
    except OSError as error:
        listener.close()
        if reservation is not None:
            reservation.close()
        if error.errno == errno.EADDRINUSE:
            holder = _holder(host, port) if explain else ""
            raise PortInUseError(f"Port {port} is taken{holder}") from error
        if error.errno == errno.EACCES:
            raise PortInUseError(f"Port {port} may only be used by the administrator") from error
        raise ArgumentValueError(f"Cannot listen on {host!r}, port {port}: {error.strerror}") from error
    if listen:
        return PortClaim(host, port, listener, reservation)
    listener.close()
    return PortClaim(host, port, None, reservation)


def _addresses(host: str, port: int) -> list[tuple[Any, ...]]:
    return list(socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE))


def _reserve(port: int) -> socket.socket:
    """Bind an abstract socket named after the port: released when its last holder closes it."""
    reservation = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        reservation.bind(f"\0nbruntime-port-{port}")
    except OSError:
        reservation.close()
        raise
    return reservation


def _holder(host: str, port: int) -> str:
    import psutil

    for pid in holders_of(host, port):
        with contextlib.suppress(psutil.Error):
            # Its name alone: its arguments may hold secrets.
            return f" by process {pid} ({psutil.Process(pid).name()})"
    return ""


def holders_of(host: str, port: int) -> list[int]:
    """Return the pids of this user that listen on a port at an address, or at all addresses.

    Of processes that share a socket, one is returned.
    """
    import psutil

    ours = [ipaddress.ip_address(found[4][0]) for found in _addresses(host, port)]

    def receives(address: str) -> bool:
        """Return True if a socket listening on an address receives connections to the host."""
        theirs = ipaddress.ip_address(address)
        return theirs.is_unspecified or any(one.is_unspecified or one == theirs for one in ours)

    try:
        connections = psutil.net_connections("tcp")
    except (psutil.Error, OSError):  # a sandbox may hide them
        return []
    listening = [one for one in connections if one.status == psutil.CONN_LISTEN and one.laddr.port == port]
    return sorted({one.pid for one in listening if one.pid is not None and receives(one.laddr.ip)})
