"""The base class of both clients, and the checks of their arguments."""

from __future__ import annotations

from typing import Any

from nbruntime.display.cards import Card, CardMixin
from nbruntime.display.html import visible
from nbruntime.endpoint.address import check_base_url
from nbruntime.endpoint.cards import endpoint_card, model_name
from nbruntime.endpoint.server_capabilities import ServerCapabilities
from nbruntime.endpoint.settings import Settings
from nbruntime.errors import ArgumentTypeError, ArgumentValueError
from nbruntime.secrets import Secret


class BaseClient(CardMixin):
    """The settings and the known capabilities of one server; arguments as in `RuntimeEndpoint`."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        verify: str | bool | None,
        chat_template_name: str | None,
        connect_timeout: float | None,
        read_timeout: float | None,
    ) -> None:
        self._capabilities = ServerCapabilities(chat_template_name)
        self._settings = Settings(
            check_base_url(base_url),
            checked_key(api_key),
            checked_certificates(verify),
            checked_seconds("connect_timeout", connect_timeout),
            checked_seconds("read_timeout", read_timeout),
        )
        self._open()

    def _open(self) -> None:
        """Make a transport that is not connected yet."""
        raise NotImplementedError

    @property
    def base_url(self) -> str:
        """URL of the server, without a slash at its end."""
        return self._settings.base_url

    @property
    def api_key(self) -> str | None:
        """Key of the server."""
        return self._settings.secret.reveal()

    @api_key.setter
    def api_key(self, value: str | None) -> None:
        self._settings.secret = checked_key(value)

    @property
    def verify(self) -> str | bool | None:
        """Certificates to check the server by."""
        return self._settings.verify

    @property
    def settings(self) -> Settings:
        """URL, key, certificates and time-outs together, for another client of the same server."""
        return self._settings

    def __getstate__(self) -> dict[str, Any]:
        # Threads, streams and connections are not copied.
        return {"settings": self._settings, "known": self._capabilities}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._settings, self._capabilities = state["settings"], state["known"]
        self._open()

    @property
    def last_server_info(self) -> dict[str, Any]:
        """The last answer of `get_server_info`, without asking again; empty if there is none."""
        return self._capabilities.server_info or {}

    def _card(self) -> Card:
        return endpoint_card(type(self).__name__, self._settings, self._capabilities)

    def __repr__(self) -> str:
        key = ", api_key=***" if self._settings.secret else ""
        model = model_name(self._capabilities.model_info or {})
        return (
            f"{type(self).__name__}({self.base_url!r}{key})\n"
            f"  {visible(model)}, {visible(self._settings.state())}"
        )


def checked_key(key: str | None) -> Secret:
    """Check that a key can stand in a header, and make it a secret."""
    if key is not None and not isinstance(key, str):
        raise ArgumentTypeError(
            f"The key is a {type(key).__name__}, not a text", where="api_key", hint="Give the server's key."
        )
    if key and not (key.isascii() and key.isprintable()):
        raise ArgumentValueError(
            "The key cannot stand in a header",
            where="api_key",
            hint="Check it for line ends and for letters that are not ASCII.",
        )
    return Secret(key)


def checked_certificates(verify: str | bool | None) -> str | bool | None:
    """Refuse a value that would switch the check of certificates off."""
    if verify is not None and not isinstance(verify, str | bool):
        raise ArgumentTypeError(f"verify is a {type(verify).__name__}", where="verify", hint=_VERIFY_HINT)
    if verify == "":
        raise ArgumentValueError("verify is an empty text", where="verify", hint=_VERIFY_HINT)
    return verify


_VERIFY_HINT = (
    "Give the path of a file or folder of certificates as a text, or leave it out for the usual ones."
)


def checked_rids(rid: str | Any) -> tuple[str, ...]:
    """Check the names of the requests to abort."""
    rids = (rid,) if isinstance(rid, str) else rid
    if not isinstance(rids, list | tuple) or not all(isinstance(each, str) for each in rids):
        raise ArgumentTypeError(f"rid is {rid!r}", where="rid", hint=_RID_HINT)
    if not rids or not all(rids):
        raise ArgumentValueError("rid is empty", where="rid", hint=_RID_HINT)
    return tuple(rids)


_RID_HINT = "Give the name of a request, as in stream.rid."


def checked_path(path: str) -> str:
    """Refuse a path without a slash: it would become a part of the host's name."""
    hint = 'Begin it with a slash, as in "/metrics".'
    if not isinstance(path, str):
        raise ArgumentTypeError(f"The path is a {type(path).__name__}, not a text", where="path", hint=hint)
    if not path.startswith("/"):
        raise ArgumentValueError(f"The path is {path!r}", where="path", hint=hint)
    return path


LONGEST_SECONDS = 2_147_483
"""24 days: the longest time-out whose milliseconds fit in 32 bits."""


def checked_seconds(name: str, seconds: float | None) -> float | None:
    """Refuse a time-out that sockets do not accept."""
    hint = "Give seconds, such as 10.0, or None to wait for ever."
    if isinstance(seconds, bool) or not isinstance(seconds, int | float | None):
        raise ArgumentTypeError(f"{name} is a {type(seconds).__name__}", where=name, hint=hint)
    if seconds is not None and not 0 < seconds <= LONGEST_SECONDS:
        raise ArgumentValueError(f"{name} is {seconds}", where=name, hint=hint)
    return seconds
