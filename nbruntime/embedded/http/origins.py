"""Which web pages may use the server.

Every page that the user visits can send requests to this machine: by an image, a form or a script, or by
letting its own name point to 127.0.0.1. A server with a key answers every page that has the key, as SGLang
does. A server without a key answers programs, and pages of this machine.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from nbruntime.embedded.arguments import ServerArguments
from nbruntime.embedded.http.replies import text_reply
from nbruntime.embedded.service.errors import http_error

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_HINT = "Start the server with an API key, or name the host with --allowed-hosts."


class OriginRules:
    """The rules of one server: a middleware, and a signal that lets pages read their answers."""

    def __init__(self, arguments: ServerArguments) -> None:
        self._has_key = arguments.api_key is not None
        self._names = {"localhost", socket.gethostname().lower(), *arguments.allowed_host_names}

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse requests of foreign pages with 403; answer CORS preflights of the others."""
        refusal = self._refusal(request)
        if refusal is not None:
            raise http_error(403, f"{refusal}. {_HINT}")
        if request.method != hdrs.METH_OPTIONS or hdrs.ACCESS_CONTROL_REQUEST_METHOD not in request.headers:
            return await handler(request)
        response = text_reply("OK")
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
        asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS)
        if asked:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = asked
        response.headers[hdrs.ACCESS_CONTROL_MAX_AGE] = "600"
        return response

    async def allow_reading(self, request: web.Request, response: web.StreamResponse) -> None:
        """Let a page of an allowed origin read the answer."""
        if hdrs.ORIGIN in request.headers and self._refusal(request) is None:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = request.headers[hdrs.ORIGIN]
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
        response.headers[hdrs.VARY] = hdrs.ORIGIN

    def _refusal(self, request: web.Request) -> str | None:
        """Say why a request is refused; None if it is not."""
        if self._has_key:
            return None
        headers = request.headers
        # A page whose name points to this machine is of the same origin for its browser: only Host tells.
        hosts = [f"http://{host}" for host in headers.getall(hdrs.HOST, [])]
        if not request.raw_path.startswith(("/", "*")):
            hosts.append(request.raw_path)
        for host in hosts:
            if not self._is_here(host):
                return f"The host of the request is not this machine: {host.removeprefix('http://')!r}"
        origins = headers.getall(hdrs.ORIGIN, [])
        for origin in origins:
            if not self._is_here(origin):
                return f"A web page of another host sent the request: {origin!r}"
        if headers.get("Sec-Fetch-Mode") == "no-cors":
            return "A web page uses the server as an image or a script"
        if origins:
            return None
        site = headers.get("Sec-Fetch-Site")
        # Under http:// and a name, or 0.0.0.0, browsers do not say which page has asked; old ones never do.
        if site is None and headers.get(hdrs.USER_AGENT, "").startswith("Mozilla/"):
            return "The browser does not say where the request is from; open the server as http://127.0.0.1"
        if site not in {None, "none", "same-origin"} and not self._is_here(headers.get(hdrs.REFERER, "")):
            return "A web page of another host sent the request"
        return None

    def _is_here(self, url: str) -> bool:
        """Tell whether a URL is of this machine, or of an allowed host."""
        try:
            parts = urlsplit(url)
            name, _ = (parts.hostname or "").removesuffix("."), parts.port  # reading a wrong port raises
        except ValueError:
            return False
        if parts.scheme not in {"http", "https"} or "@" in parts.netloc:
            return False
        return name in self._names or _is_own_address(name)


def _is_own_address(name: str) -> bool:
    """Tell whether a host is written as an address of this machine."""
    try:
        address = ip_address(name)
    except ValueError:
        return False
    if address.is_loopback or address.is_unspecified:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((name, 0))  # the system allows only its own addresses
        except OSError:
            return False
    return True
