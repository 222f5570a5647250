"""The status of a page of a server that is starting, asked for with the standard library alone."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit

__all__ = ["http_status"]


def http_status(url: str, timeout: float) -> int | None:
    """Ask for a page and look at the status only; proxies are not asked.

    Parameters
    ----------
    url : str
        An ``http://`` address.
    timeout : float
        Seconds.

    Returns
    -------
    int or None
        None if nobody answers, or not in time.
    """
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=timeout)
    try:
        connection.request("GET", address.path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
