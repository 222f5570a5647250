"""Cuts the text of a Chrome trace into batches of events, and holds no more than a part of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from nbruntime.errors import TraceError
from nbruntime.profiling.trace.decoding import (
    DECODE_ERRORS,
    Event,
    Head,
    Salvage,
    decode_events,
    decode_head,
    repaired,
)

CHUNK = 512 << 10
"""Bytes that are decoded at once; they fit into the processor's cache, which is twice as fast as 4 MB."""

_LONGEST_HEAD = 64 << 20
_CUTS_TRIED = 8  # a wrong cut, inside a string or a nested list, does not decode
_WINDOW = 256  # most white space between two events
_EVENTS = re.compile(rb'"traceEvents"\s*:\s*\[')
_SPACE = b" \t\r\n"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class TraceText:
    """The text of one trace: gives its events, and then knows what stands beside them.

    Parameters
    ----------
    blocks : iterable of bytes
        The text, cut anywhere.
    where : str
        Name of the file, for errors.
    chunk : int
        Bytes to decode at once.

    Attributes
    ----------
    head : Head
        What stands beside the events.
    unreadable : int
        Number of events that are not JSON.
    cut_off : bool
        Whether the text ends before the end of the events.
    """

    def __init__(self, blocks: Iterable[bytes], where: str = "", *, chunk: int = CHUNK) -> None:
        self.head = Head()
        self.unreadable = 0
        self.cut_off = False
        self._blocks = iter(blocks)
        self._where = where
        self._chunk = chunk

    def batches(self) -> Iterator[list[Event]]:
        """Give the events in their order; TraceError if the text is not a trace."""
        head, text = self._open()
        closed, partial = False, False
        wanted = self._chunk
        for block in self._blocks:
            text += block
            if len(text) < wanted:
                continue
            events, text, closed = self._take(text)
            wanted = max(self._chunk, 2 * len(text))  # larger if an event did not fit
            yield events
            if closed:
                break
        else:
            last = Salvage(text, complete=True)
            self.unreadable += last.unreadable
            closed, partial, text = last.closed, last.partial, text[last.rest :]
            yield last.events
        self.cut_off = partial or (head is not None and not closed)
        if head is not None:
            self.head = decode_head(head.rstrip(_SPACE + b",") + b"}")
        if head is not None and closed:
            self.head.complete_from(decode_head(b"{" + self._foot(text)))

    def _open(self) -> tuple[bytes | None, bytes]:
        """Read up to the events; returns what stands before (None if nothing may) and the rest."""
        text = b""
        while len(text) < len(_BYTE_ORDER_MARK) and (block := next(self._blocks, b"")):
            text += block
        text = text.removeprefix(_BYTE_ORDER_MARK)
        searched = 0
        while True:
            start = text.lstrip(_SPACE)
            if start.startswith(b"["):
                return None, start[1:]
            if start and not start.startswith(b"{"):
                raise TraceError(f"The file is not JSON: it begins with {start[:8]!r}", where=self._where)
            if found := _EVENTS.search(text, searched):
                return text[: found.start()], text[found.end() :]
            block = next(self._blocks, b"")
            if not block or len(text) > _LONGEST_HEAD:
                break
            searched = max(len(text) - _WINDOW, 0)
            text += block
        if not text.strip():
            raise TraceError("The file is empty", where=self._where)
        if not text.rstrip(_SPACE).endswith(b"}"):
            raise TraceError("The file ends before its first event", where=self._where)
        raise TraceError("The file is JSON, but not a trace: it has no traceEvents", where=self._where)

    def _take(self, text: bytes) -> tuple[list[Event], bytes, bool]:
        """Decode all whole events; returns them, the rest of the text, and whether the events end there."""
        cut: tuple[int, int] | None = None
        for cut in _cuts(text):
            try:
                return decode_events(memoryview(text)[: cut[0]]), text[cut[1] :], False
            except DECODE_ERRORS:
                continue
        if cut is not None:
            try:
                return decode_events(repaired(text[: cut[0]])), text[cut[1] :], False
            except DECODE_ERRORS:
                pass
        salvage = Salvage(text, complete=False)
        self.unreadable += salvage.unreadable
        return salvage.events, text[salvage.rest :], salvage.closed

    def _foot(self, text: bytes) -> bytes:
        """Read what stands behind the events."""
        for block in self._blocks:
            if len(text) < _LONGEST_HEAD:
                text += block
        return text.lstrip(_SPACE + b"],")


def _cuts(text: bytes) -> Iterator[tuple[int, int]]:
    """Find the last places between two events: the end of one, and the start of the next."""
    start = len(text)
    for _ in range(_CUTS_TRIED):
        while True:
            start = text.rfind(b"{", 0, start)
            if start <= 0:
                return
            before = max(start - _WINDOW, 0)
            gap = text[before:start].rstrip(_SPACE)
            if gap.endswith(b",") and (gap := gap[:-1].rstrip(_SPACE)).endswith(b"}"):
                break
        yield before + len(gap), start
