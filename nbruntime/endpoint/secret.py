"""A value that never shows: an API key."""

from __future__ import annotations

from collections.abc import Callable

_MASK = "***"


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
        return text.replace(value, _MASK) if value else text

    def __bool__(self) -> bool:
        return bool(self._reveal())

    def __str__(self) -> str:
        return _MASK if self else ""

    def __repr__(self) -> str:
        return f"Secret({_MASK!r})" if self else "Secret(None)"

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> tuple[type[Secret], tuple[None]]:
        return Secret, (None,)  # a pickle has no key
