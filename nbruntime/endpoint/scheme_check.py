"""A check whether a server speaks https where http was tried, or the other way round."""

from __future__ import annotations

import socket
import ssl
from urllib.parse import urlsplit

CHECK_SECONDS = 1.0
"""Seconds for each step of the check, which comes after an error."""


def with_other_scheme(base_url: str) -> str | None:
    """Return the URL with the other scheme, if the server speaks that one; ask with a connection."""
    parts = urlsplit(base_url)
    other, default_port, speaks = ("https", 80, _tls) if parts.scheme == "http" else ("http", 443, _http)
    try:
        address = (parts.hostname or "", parts.port or default_port)
        with socket.create_connection(address, CHECK_SECONDS) as wire:
            return parts._replace(scheme=other).geturl() if speaks(wire) else None
    except OSError:
        return None


def _tls(wire: socket.socket) -> bool:
    context = ssl.create_default_context()
    context.check_hostname = False  # nothing is sent
    context.verify_mode = ssl.CERT_NONE
    with context.wrap_socket(wire):
        return True


def _http(wire: socket.socket) -> bool:
    wire.sendall(b"HEAD / HTTP/1.1\r\nhost: check\r\nconnection: close\r\n\r\n")
    return wire.recv(16).startswith(b"HTTP/")
