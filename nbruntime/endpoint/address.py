"""Checks of a server's URL."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from nbruntime.errors import ArgumentTypeError, ArgumentValueError
from nbruntime.protocol import hosts


def check_base_url(base_url: str) -> str:
    """Check that a text is a URL of http or https without a password, and remove the slash at its end.

    Examples
    --------
    >>> check_base_url("http://localhost:30000/")
    'http://localhost:30000'
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
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))


def is_loopback(base_url: str) -> bool:
    """Whether the server is on this machine."""
    host = urlsplit(base_url).hostname or ""
    return host.endswith(".localhost") or hosts.is_loopback(host)
