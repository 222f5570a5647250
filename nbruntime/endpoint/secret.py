"""A value that never shows: an API key."""

from __future__ import annotations

import re
from collections.abc import Callable

MASK = "***"
"""What stands in the place of a secret."""

_NAMES = re.compile(r"(^|_)(api_?)?keys?(_b)?$|passw(or)?d|secret|credential|(^|_)auth|hf_token|bearer")


def is_secret_name(name: str) -> bool:
    """Tell whether a field or an argument of this name may hold a key or a password.

    Examples
    --------
    >>> [is_secret_name(name) for name in ("api_key", "ssl_keyfile", "ssl_keyfile_password", "model")]
    [True, False, True, False]
    """
    return bool(_NAMES.search(name.rpartition(".")[2].lower().replace("-", "_")))


class Secret:
    """Hold an API key so that no repr, log, error, pickle or ``vars()`` shows it.

    Parameters
    ----------
    value : str or None
        The key; None for none.

    Examples
    --------
    >>> key = Secret("sk-1234")
    >>> key, str(key), key.reveal()
    (Secret('***'), '***', 'sk-1234')
    >>> key.scrub("Authorization: Bearer sk-1234")
    'Authorization: Bearer ***'
    """

    __slots__ = ("_reveal",)

    def __init__(self, value: str | None) -> None:
        # A function, so that tools which walk through attributes meet no text.
        self._reveal: Callable[[], str | None] = lambda: value

    def reveal(self) -> str | None:
        """Give the key itself."""
        return self._reveal()

    def scrub(self, text: str) -> str:
        """Mask the key wherever it stands in a text."""
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

    def __reduce__(self) -> tuple[type[Secret], tuple[None]]:
        return Secret, (None,)  # a pickle has no key
