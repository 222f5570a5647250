"""What a cumulative event repeats of the event before it."""

from __future__ import annotations

from typing import Self

# SGLang's order of keys; events in another order are parsed whole. Inside a text the quotes would be escaped.
_TEXT, _IDS = b'{"text":"', b'","output_ids":['


class RepeatedBytes:
    r"""The text and the ids of a cumulative event, as the bytes that the next event begins with.

    Cutting them off makes an incremental event. Parsing whole events would cost O(n²) in a stream.

    Examples
    --------
    >>> repeated = RepeatedBytes.of(b'{"text":"Hel","output_ids":[5],"meta_info":{}}')
    >>> repeated.cut(b'{"text":"Hello","output_ids":[5,6],"meta_info":{}}')
    b'{"text":"lo","output_ids":[6],"meta_info":{}}'
    """

    __slots__ = ("_ids", "_text")

    def __init__(self) -> None:
        self._text, self._ids = _TEXT, b""

    @classmethod
    def of(cls, event: bytes) -> Self | None:
        """Read an event's own; None if its keys are in another order than SGLang's."""
        repeated = cls()
        return None if repeated.cut(event) is None else repeated

    def cut(self, event: bytes) -> bytes | None:
        """Return the next event with only what is new in it; None if it does not repeat the last one."""
        text_end = event.find(_IDS, len(self._text))
        ids_start = text_end + len(_IDS)
        ids_end = event.find(b"]", ids_start + len(self._ids))
        if text_end < 0 or ids_end < 0:
            return None
        if not (event.startswith(self._text) and event.startswith(self._ids, ids_start)):
            return None
        new_text, new_ids = event[len(self._text) : text_end], event[ids_start + len(self._ids) : ids_end]
        if self._ids and new_ids:
            if not new_ids.startswith(b","):
                return None  # the last id has other digits
            new_ids = new_ids[1:]
        self._text, self._ids = event[:text_end], event[ids_start:ids_end]
        return b"%b%b%b%b%b" % (_TEXT, new_text, _IDS, new_ids, event[ids_end:])
