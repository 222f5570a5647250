"""Why a generation ended, as SGLang says it in ``meta_info``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True, repr=False)
class FinishReason:
    """Why a generation ended.

    Parameters
    ----------
    type : str
        ``"stop"``, ``"length"`` or ``"abort"``.
    matched : int, str, list of int, or None
        The token id, text or pattern that stopped it.
    length : int or None
        The limit that was reached.
    message : str or None
        The server's message about an abort.
    status_code : int or None
        The HTTP status of an abort that is an error.

    Examples
    --------
    >>> str(FinishReason("stop", matched=13)), FinishReason("stop", matched=13)
    ('stop (token 13)', FinishReason(type='stop', matched=13))
    """

    type: str
    matched: int | str | list[int] | None = None
    length: int | None = None
    message: str | None = None
    status_code: int | None = None

    @classmethod
    def from_dict(cls, reason: Mapping[str, Any]) -> FinishReason:
        """Read SGLang's object; unknown keys are ignored."""
        known = {item.name: reason[item.name] for item in fields(cls) if reason.get(item.name) is not None}
        return cls(**{"type": "unknown", **known})

    def __repr__(self) -> str:
        given = [(item.name, getattr(self, item.name)) for item in fields(self)]
        words = ", ".join(f"{name}={value!r}" for name, value in given if value is not None)
        return f"{type(self).__name__}({words})"

    def __str__(self) -> str:
        match self:
            case FinishReason(type="stop", matched=int(token_id)):
                return f"stop (token {token_id})"
            case FinishReason(type="stop", matched=matched) if matched is not None:
                return f"stop ({matched!r})"
            case FinishReason(type="length", length=int(length)):
                return f"length ({length})"
            case FinishReason(message=str(message)):
                return f"{self.type} ({message})"
            case _:
                return self.type
