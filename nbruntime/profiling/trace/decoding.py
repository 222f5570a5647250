"""Decodes events of a Chrome trace, and repairs those that are not quite JSON."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""Fits into a column."""

LONGEST_EVENT = 4 << 20
"""Bytes; what is longer is not an event of a profiler."""


class Arguments(msgspec.Struct, gc=False):
    """The fields of ``args`` that are used; all others are skipped."""

    correlation: Integer = -1
    stream: Integer = -1
    bytes: Integer = msgspec.field(default=0, name="Bytes")
    allocated: Integer = msgspec.field(default=-1, name="Total Allocated")
    device_type: Integer = msgspec.field(default=-1, name="Device Type")


class Event(msgspec.Struct, gc=False):
    """One event; `ts` and `dur` are in µs."""

    ph: str = ""
    name: str = ""
    cat: str = ""
    ts: float = 0.0
    dur: float = 0.0
    pid: int | str = 0
    tid: int | str = 0
    args: Arguments | None = None


class Distribution(msgspec.Struct, gc=False):
    """The place of a process among the ranks."""

    rank: int | None = None
    world_size: int | None = None


class Head(msgspec.Struct, gc=False):
    """What a trace says beside its events."""

    base: int | None = msgspec.field(default=None, name="baseTimeNanoseconds")
    distribution: Distribution | None = msgspec.field(default=None, name="distributedInfo")

    def complete_from(self, other: Head) -> None:
        """Take what is missing from another."""
        self.base = other.base if self.base is None else self.base
        self.distribution = self.distribution or other.distribution


_decode_events = msgspec.json.Decoder(list[Event]).decode
_decode_event = msgspec.json.Decoder(Event, strict=False).decode  # takes numbers in quotes, too
_decode_head = msgspec.json.Decoder(Head, strict=False).decode

_CONTROL_TO_SPACE = bytes(range(256)).translate(bytes.maketrans(bytes(range(32)), b" " * 32))
_NOT_A_NUMBER = re.compile(rb"(:\s*)-?(?:nan|inf|infinity)(?=\s*[,}])", re.IGNORECASE)
_WRONG_ESCAPE = re.compile(rb'\\(?!["\\/bfnrt]|u[0-9a-fA-F]{4})(\\?)')
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[{}]', re.DOTALL)  # a string may be cut off
_SEPARATOR = re.compile(rb"\}\s*,\s*\{")
_BASE = re.compile(rb'"baseTimeNanoseconds"\s*:\s*(\d{1,19})')
_BETWEEN = re.compile(rb"[\s,]*")

DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError)
"""What the decoders raise."""


def decode_events(text: bytes | memoryview) -> list[Event]:
    """Decode events with commas between them; raises one of `DECODE_ERRORS`."""
    return _decode_events(b"".join((b"[", text, b"]")))


def decode_head(text: bytes) -> Head:
    """Decode what stands before or behind the events; of a damaged text only the base of its times."""
    for mend in (bytes, repaired):
        try:
            return _decode_head(mend(text))
        except DECODE_ERRORS:
            continue
    found = _BASE.search(text)
    return Head(int(found[1]) if found else None)


def repaired(text: bytes) -> bytes:
    """Replace control characters by spaces, which changes nothing outside of strings, and invalid UTF-8."""
    return text.translate(_CONTROL_TO_SPACE).decode("utf-8", "replace").encode()


class Salvage:
    """Takes the readable events out of a text with damaged ones, one after the other.

    Parameters
    ----------
    text : bytes
        Begins with an event.
    complete : bool
        Whether the file ends with it.

    Attributes
    ----------
    events : list of Event
        The readable ones.
    unreadable : int
        Number of the others.
    rest : int
        Where the part begins that may go on in the next block; the length of the text if there is none.
    closed : bool
        Whether the array of events ends at `rest`.
    partial : bool
        Whether the text ends inside of an event; this one is not counted as unreadable.
    """

    def __init__(self, text: bytes, *, complete: bool) -> None:
        self.events: list[Event] = []
        self.unreadable = 0
        self.closed = False
        self.partial = False
        self.rest = 0
        while not self.closed and self._skip_commas(text):
            if text[self.rest : self.rest + 1] == b"]":
                self.closed = True
                return
            end = _object_end(text, self.rest)
            if end is None and not complete and len(text) - self.rest < LONGEST_EVENT:
                return
            event = None if end is None else _repaired_event(text[self.rest : end])
            if event is not None and end is not None:
                self.events.append(event)
                self.rest = end
                continue
            # A missing quote joins events; the next one begins at the next separator.
            found = _SEPARATOR.search(text, self.rest)
            self.partial = found is None and end is None and text[self.rest : self.rest + 1] == b"{"
            self.unreadable += not self.partial
            if found is not None:
                self.rest = found.end() - 1
            else:
                self.rest = len(text) if end is None else end

    def _skip_commas(self, text: bytes) -> bool:
        found = _BETWEEN.match(text, self.rest)
        self.rest = found.end() if found else self.rest
        return self.rest < len(text)


def _object_end(text: bytes, start: int) -> int | None:
    """Find the end of the object that begins at `start`; None if it is not in the text."""
    if text[start : start + 1] != b"{":
        return None
    depth = 0
    for token in _TOKEN.finditer(text, start, start + LONGEST_EVENT):
        first = text[token.start()]
        if first == 0x7B:  # {
            depth += 1
        elif first == 0x7D:  # }
            depth -= 1
            if depth == 0:
                return token.end()
    return None


def _repaired_event(text: bytes) -> Event | None:
    for mend in (bytes, repaired, _mended):
        try:
            return _decode_event(mend(text))
        except DECODE_ERRORS:
            continue
    return None


def _mended(text: bytes) -> bytes:
    text = _WRONG_ESCAPE.sub(rb"\\\\\1\1", repaired(text))
    return _NOT_A_NUMBER.sub(rb"\1null", text)
