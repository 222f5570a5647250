"""Reads the stream of one answer: when tokens came, and how it ended."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from nbruntime.protocol.events import EventDecoder
from nbruntime.protocol.failures import server_message
from nbruntime.protocol.generate_event import read_event

MOST = 2**53
"""A larger count is no count."""


class _MetaInfo(msgspec.Struct, gc=False):
    completion_tokens: Annotated[int, msgspec.Meta(ge=0, le=MOST)] = 0
    finish_reason: None = None


class _RunningEvent(msgspec.Struct, gc=False):
    """The part of an event in the middle of an answer that is measured."""

    meta_info: _MetaInfo
    error: None = None


_decode = msgspec.json.Decoder(_RunningEvent).decode
_decode_any = msgspec.json.Decoder().decode


class Answer:
    """What is known of one answer.

    Attributes
    ----------
    arrivals : list of (float, int)
        Time and number of new tokens, of each event that brought some.
    meta_info : dict
        That of the last event.
    error : str
        The server's message, if it sent an error or ended the stream too early.
    """

    def __init__(self) -> None:
        self.arrivals: list[tuple[float, int]] = []
        self.meta_info: dict[str, Any] = {}
        self.error = ""
        self.tokens = 0
        self._decoder = EventDecoder()
        self._last: bytes = b""

    def feed(self, piece: bytes, at: float) -> int:
        """Take bytes that arrived at a time; return the number of new tokens."""
        before = self.tokens
        for payload in self._decoder.feed(piece):
            self._take(payload, at)
        return self.tokens - before

    def end(self) -> None:
        """Read what is only known at the end of the stream, or of what came of it."""
        if not self.meta_info and self._last:
            self._read(self._last)
        if not self.error and self.finish is None:
            self.error = "The stream ended before the answer"
        reason = self.meta_info.get("finish_reason")
        if self.finish == "abort" and isinstance(reason, dict):
            self.error = str(reason.get("message") or "The server aborted the request")

    @property
    def finish(self) -> str | None:
        """Type of the finish reason."""
        reason = self.meta_info.get("finish_reason")
        return str(reason.get("type")) if isinstance(reason, dict) else None

    def count(self, name: str) -> int:
        """Return a count of `meta_info`; 0 for what is none."""
        value = self.meta_info.get(name)
        return value if isinstance(value, int) and 0 <= value <= MOST else 0

    def _take(self, payload: bytes, at: float) -> None:
        self._last = payload
        try:
            tokens = _decode(payload).meta_info.completion_tokens
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            tokens = self._read(payload)  # the last event, an error, or odd JSON
        if tokens > self.tokens:
            self.arrivals.append((at, tokens - self.tokens))
            self.tokens = tokens

    def _read(self, payload: bytes) -> int:
        """Read an event whole, and return its number of tokens."""
        try:
            event = _decode_any(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            event = self._read_odd(payload)
        if not isinstance(event, dict):
            return self.tokens
        if event.get("error"):
            self.error = server_message(payload)
        if isinstance(event.get("meta_info"), dict):
            self.meta_info = event["meta_info"]
        return max(self.tokens, self.count("completion_tokens"))

    def _read_odd(self, payload: bytes) -> Any:
        """Read JSON that msgspec refuses, such as NaN."""
        try:
            return read_event(payload)
        except (ValueError, RecursionError):
            self.error = "The server sent an event that is not JSON"
            return None
