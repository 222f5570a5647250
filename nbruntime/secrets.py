"""Hides API keys and other secrets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

MASK = "***"
"""Replaces a secret in output."""

_NAMES = re.compile(
    r"(^|_)(api_?)?keys?(_b)?$|passw(or)?d|secret|credential|(^|_)auth|(hf|hub|gh|github|access|api)_token|bearer"
)


def is_secret_name(name: str) -> bool:
    """Return True if a field or argument of this name may hold a key or a password.

    Examples
    --------
    >>> [is_secret_name(name) for name in ("api_key", "ssl_keyfile", "ssl_keyfile_password", "model")]
    [True, False, True, False]
    """
    return bool(_NAMES.search(name.rpartition(".")[2].lower().replace("-", "_")))


MIN_SCRUBBED_LENGTH = 4
"""Least length of a key that is masked in other texts; a shorter one could be part of a word."""


class Secret:
    """Holds an API key, or None; no repr, log, error, pickle or ``vars()`` shows it.

    Attributes
    ----------
    left_behind : bool
        True if this comes from a pickle of a secret that held a key.

    Examples
    --------
    >>> key = Secret("sk-1234")
    >>> key, str(key), key.reveal()
    (Secret('***'), '***', 'sk-1234')
    >>> key.scrub("Authorization: Bearer sk-1234")
    'Authorization: Bearer ***'
    """

    __slots__ = ("_reveal", "left_behind")

    def __init__(self, value: str | None, *, left_behind: bool = False) -> None:
        self.left_behind = left_behind
        # A function, so that tools that list attributes do not show the key.
        self._reveal: Callable[[], str | None] = lambda: value

    def reveal(self) -> str | None:
        """Return the key itself."""
        return self._reveal()

    def scrub(self, text: str) -> str:
        """Mask the key in a text."""
        value = self._reveal()
        return text.replace(value, MASK) if value else text

    def __bool__(self) -> bool:
        return bool(self._reveal())

    def __str__(self) -> str:
        return MASK if self else ""

    def __repr__(self) -> str:
        return f"Secret({MASK!r})" if self else "Secret(None)"

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> tuple[Callable[[bool], Secret], tuple[bool]]:
        return _unpickled, (bool(self) or self.left_behind,)  # a pickle has no key


def _unpickled(left_behind: bool) -> Secret:
    return Secret(None, left_behind=left_behind)


def without_secrets(info: dict[str, Any], key: Secret) -> dict[str, Any]:
    """Copy a server's info with keys and passwords masked, wherever they occur.

    Parameters
    ----------
    info : dict
        SGLang's arguments, including ``api_key`` and the command line.
    key : Secret
        Another key to mask.

    Examples
    --------
    >>> info = {"api_key": "sk-1234", "admin_api_key": None, "launch_command": "--port 1 --api-key=sk-1234"}
    >>> without_secrets(info, Secret(None))
    {'api_key': '***', 'admin_api_key': None, 'launch_command': '--port 1 --api-key=***'}
    """
    found = {*_secrets(info), key.reveal() or ""}
    # The longest first: one secret may be part of another.
    words = sorted((word for word in found if len(word) >= MIN_SCRUBBED_LENGTH), key=len, reverse=True)

    def masked(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {inner: masked(each, str(inner)) for inner, each in value.items()}
        if isinstance(value, list):
            return [masked(each, name) for each in value]
        if not isinstance(value, str) or not value:
            return value
        if is_secret_name(name):
            return MASK
        for word in words:
            value = value.replace(word, MASK)
        return value

    copy: dict[str, Any] = masked(info)
    return copy


def _secrets(value: Any, name: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for inner, each in value.items():
            yield from _secrets(each, str(inner))
    elif isinstance(value, list):
        for each in value:
            yield from _secrets(each, name)
    elif isinstance(value, str) and is_secret_name(name):
        yield value
