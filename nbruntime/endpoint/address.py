"""Checks of a server's URL, and the way to it: directly or through a proxy."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit, urlunsplit

from requests.utils import get_environ_proxies, select_proxy

from nbruntime.errors import ArgumentTypeError, ArgumentValueError
from nbruntime.protocol import hosts


def check_base_url(base_url: str) -> str:
    """Check that a text is a URL of http or https without a password, and remove the slash at its end.

    0.0.0.0 and [::], with which a server listens at all addresses, become those of this machine.

    Examples
    --------
    >>> check_base_url("http://localhost:30000/"), check_base_url("http://0.0.0.0:30000")
    ('http://localhost:30000', 'http://127.0.0.1:30000')
    """
    hint = "Write it as http://127.0.0.1:30000."
    if not isinstance(base_url, str):
        raise ArgumentTypeError(
            f"The URL is a {type(base_url).__name__}, not a text", where="base_url", hint=hint
        )
    if "@" in base_url:  # the message must not show a password
        raise ArgumentValueError(
            "The URL holds a user name or a password",
            where="base_url",
            hint="Leave them out of the URL; the server's key goes into api_key.",
        )
    try:
        parts = urlsplit(base_url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ArgumentValueError(f"Not a URL: {base_url!r}", where="base_url", hint=hint) from None
    if parts.scheme not in ("http", "https") or not host:
        raise ArgumentValueError(f"Not a URL of http or https: {base_url!r}", where="base_url", hint=hint)
    place = parts.netloc
    if (address := _ip_address(host)) is not None:
        if address.is_unspecified:
            address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
        place = str(address) if address.version == 4 else f"[{address}]"
        place += "" if parts.port is None else f":{parts.port}"
    return urlunsplit((parts.scheme, place, parts.path.rstrip("/"), "", ""))


def is_this_machine(base_url: str) -> bool:
    """Return True if the server is on this machine, by its address or name; asks no name server."""
    host = (urlsplit(base_url).hostname or "").rstrip(".")
    if hosts.is_loopback(host) or host.endswith(".localhost"):
        return True
    address = _ip_address(host)
    if address is None:
        name = socket.gethostname().lower()
        return host in (name, name.partition(".")[0])
    if address.is_loopback:
        return True
    import psutil  # only here, since it takes a while

    interfaces = psutil.net_if_addrs().values()
    return str(address) in {each.address.lower() for addresses in interfaces for each in addresses}


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Read an address in any form that sockets take, such as 127.1; None for a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            address = ipaddress.ip_address(socket.inet_aton(host))
        except (OSError, UnicodeError):
            return None
    return getattr(address, "ipv4_mapped", None) or address


def find_proxy(base_url: str) -> str | None:
    """Return the environment's proxy for a server, None if it is reached directly; it may hold a password."""
    if is_this_machine(base_url):
        return None
    proxy = select_proxy(base_url, get_environ_proxies(base_url))
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


def without_password(url: str) -> str:
    """Remove user and password from a URL.

    Examples
    --------
    >>> without_password("http://me:pass@proxy.example:3128")
    'http://proxy.example:3128'
    """
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
