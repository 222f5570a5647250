"""Errors of a connection, with the same words for both clients."""

from __future__ import annotations

import re
from http import HTTPStatus
from urllib.parse import urlsplit

from nbruntime.endpoint.address import without_password
from nbruntime.endpoint.scheme_check import with_other_scheme
from nbruntime.endpoint.settings import Settings
from nbruntime.errors import (
    ArgumentValueError,
    NbruntimeError,
    ProtocolError,
    ServerConnectionError,
    ServerStatusError,
    ServerTimeoutError,
)
from nbruntime.protocol.failures import error_of_response

_LEFT_BEHIND = (
    "The endpoint was pickled, as for another process, and a pickle holds no key: give it there, "
    'as in endpoint.api_key = os.environ["API_KEY"].'
)

_ASKS_FOR_HTTPS = re.compile(r"\bHTTPS (port|server)\b")
"""What nginx and servers in Go say to a request of http."""

_PROXY_PASSWORD = "Write its user and password into its URL in the environment."

_PASSWORD = re.compile("//[^/?#]*@")
"""User and password in a URL."""

_EXCERPT = 80
_LONGEST_REASON = 200


def no_connection_in_time(settings: Settings, path: str) -> ServerTimeoutError:
    """Make the error for a connection that timed out."""
    return ServerTimeoutError(
        f"No connection within {settings.connect_timeout} s",
        sent=False,
        where=settings.url(path),
        hint=_diagnosis(settings) or "Check that the server is running, and that the URL is right.",
    )


def no_answer_in_time(settings: Settings, path: str) -> ServerTimeoutError:
    """Make the error for an answer that did not begin in time."""
    return ServerTimeoutError(
        "No answer in time", where=settings.url(path), hint=_diagnosis_of_proxy(settings)
    )


def no_more_in_time(settings: Settings, path: str) -> ServerTimeoutError:
    """Make the error for an answer that began and did not go on in time."""
    return ServerTimeoutError(
        "Nothing more came in time", where=settings.url(path), hint=_diagnosis_of_proxy(settings)
    )


def took_too_long(settings: Settings, path: str, seconds: float, *, sent: bool = True) -> ServerTimeoutError:
    """Make the error for a request that has taken longer than its caller allows."""
    return ServerTimeoutError(
        f"The request took longer than its timeout of {seconds:g} s",
        sent=sent,
        where=settings.url(path),
        hint="It is stopped on the server. Give a longer timeout=..., or ask for less: max_new_tokens=...",
    )


def no_answer(settings: Settings, path: str, reason: str, *, sent: bool) -> ServerConnectionError:
    """Make the error for a connection that was refused, or broke before the answer."""
    if sent and (problem := _wrong_scheme(settings, path, reason)):
        return problem
    return _connection_error(settings, path, "No answer from the server", reason, sent=sent)


def broken_off(settings: Settings, path: str, reason: str) -> ServerConnectionError:
    """Make the error for a connection that broke in the middle of an answer."""
    return _connection_error(settings, path, "The connection broke", reason)


def certificate_refused(settings: Settings, path: str, reason: str) -> ServerConnectionError:
    """Make the error for a server whose certificate is not accepted, or that does not speak TLS."""
    message = "The server's certificate is not accepted"
    hint = "Give the file of the certificate authority as verify=..."
    if "certificate" not in reason.lower():
        if problem := _wrong_scheme(settings, path, reason):
            return problem
        message, hint = "The server does not speak TLS as it should", "Check that it is a server of https."
    # A proxy may answer in place of the server.
    hint = f"{hint} {_diagnosis_of_proxy(settings) or ''}".rstrip()
    return _connection_error(settings, path, message, reason, sent=False, hint=hint)


def proxy_refused(settings: Settings, path: str, reason: str) -> ServerConnectionError:
    """Make the error for a proxy of the environment that does not connect."""
    message = f"The proxy {_proxy_name(settings)} does not connect"
    hint = _proxy_hint(settings, _PROXY_PASSWORD if "407" in reason else "Check the proxy.")
    return _connection_error(settings, path, message, reason, sent=False, hint=hint)


def certificates_unreadable(verify: str | bool) -> ServerConnectionError:
    """Make the error for certificates that cannot be read."""
    return ServerConnectionError(
        "The certificates to check the server by cannot be read",
        sent=False,
        where=f"verify={verify!r}",
        hint="Give the path of an existing file or folder.",
    )


def not_http(settings: Settings, path: str) -> ArgumentValueError:
    """Make the error for a host name that HTTP cannot hold."""
    return ArgumentValueError(
        "The request cannot be written as HTTP: the host has characters that it cannot have",
        where=settings.url(path),
        hint=_diagnosis_of_proxy(settings) or "Check base_url.",
    )


def bad_status(
    settings: Settings, path: str, status: int, body: str, location: str = ""
) -> ServerStatusError:
    """Make the error for a status of 300 or more; a redirect is not followed, to protect the key."""
    scrub = settings.secret.scrub
    who, hint = "The server", None
    if status < 400:
        target = _PASSWORD.sub("//", location, count=1)
        hint = f"It redirects to {scrub(target)}: give the final address as base_url."
        hint = f"{hint} {_diagnosis_of_proxy(settings) or ''}".rstrip()
    elif status == HTTPStatus.BAD_REQUEST and _ASKS_FOR_HTTPS.search(body):
        hint = f"Give {settings.base_url.replace('http:', 'https:', 1)} as base_url."
    elif status == HTTPStatus.NOT_FOUND and (prefix := urlsplit(settings.base_url).path):
        hint = f"Leave {scrub(prefix)} out of base_url, unless all routes of the server begin with it."
    elif settings.secret.left_behind and status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        hint = _LEFT_BEHIND
    elif settings.proxy is not None and not body.lstrip().startswith("{"):
        # The server's own errors are JSON, but for a few.
        proxy = f"proxy {_proxy_name(settings)}"
        if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            who = f"The {proxy}"
            hint = _proxy_hint(settings, _PROXY_PASSWORD)
        else:
            who, hint = f"The server, or the {proxy} before it,", _proxy_hint(settings)
    return error_of_response(status, scrub(body), where=settings.url(path), hint=hint, who=who)


def not_json(settings: Settings, path: str, content: bytes) -> ProtocolError:
    """Make the error for an answer that should be JSON."""
    excerpt = settings.secret.scrub(content[:_EXCERPT].decode("utf-8", "replace"))
    return _protocol_error(settings, path, f"The answer is not JSON: {excerpt!r}")


def not_a_stream(settings: Settings, path: str, kind: str) -> ProtocolError:
    """Make the error for an answer that should be a stream."""
    what = _line(settings, kind) or "of no type"
    return _protocol_error(settings, path, f"The answer is not a stream but {what}")


def _protocol_error(settings: Settings, path: str, message: str) -> ProtocolError:
    return ProtocolError(message, where=settings.url(path), hint=_diagnosis_of_proxy(settings))


def _connection_error(
    settings: Settings, path: str, message: str, reason: str, *, sent: bool = True, hint: str | None = None
) -> ServerConnectionError:
    message = f"{message}: {_line(settings, reason)}"
    hint = hint or _diagnosis(settings)
    return ServerConnectionError(message, sent=sent, where=settings.url(path), hint=hint)


def _wrong_scheme(settings: Settings, path: str, reason: str) -> ServerConnectionError | None:
    """Make the error for a server that speaks the other scheme, unless it has ever answered in this one."""
    if settings.last_answer is not None or settings.proxy is not None:
        return None
    url = with_other_scheme(settings.base_url)
    if url is None:
        return None
    right, wrong = urlsplit(url).scheme, urlsplit(settings.base_url).scheme
    message = f"The server speaks {right}, not {wrong}"
    return _connection_error(settings, path, message, reason, sent=False, hint=f"Give {url} as base_url.")


def _line(settings: Settings, reason: str) -> str:
    """Put foreign text into one short line, with the key masked."""
    words = " ".join(settings.secret.scrub(reason).split())
    return words if len(words) <= _LONGEST_REASON else f"{words[:_LONGEST_REASON]}…"


def _diagnosis(settings: Settings) -> str | None:
    if settings.diagnose is None:
        return _diagnosis_of_proxy(settings)
    try:
        return settings.diagnose()
    except NbruntimeError:
        return None


def _diagnosis_of_proxy(settings: Settings) -> str | None:
    if settings.proxy is None:
        return None
    return _proxy_hint(settings, f"The request went through the proxy {_proxy_name(settings)}.")


def _proxy_name(settings: Settings) -> str:
    return without_password(settings.proxy or "")


def _proxy_hint(settings: Settings, first: str = "") -> str:
    host = urlsplit(settings.base_url).hostname
    otherwise = f"If the server needs no proxy, put {host} into the environment variable NO_PROXY."
    return f"{first} {otherwise}".lstrip()
