"""Checks of host names."""

from __future__ import annotations

import functools
import ipaddress


@functools.lru_cache(64)  # asked for every request
def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach an address.

    Examples
    --------
    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
