"""Read the bytes of a ``/generate`` stream as what each event adds.

SGLang repeats the whole text in every event, unless it was started with ``--incremental-streaming-output``
(0.5.23, ``srt/managers/tokenizer_manager.py``). `DeltaDecoder` tells the two apart by counting tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nbruntime.protocol.answers import first_invalid_field, scrub_reason
from nbruntime.protocol.deltas import Delta, Item
from nbruntime.protocol.events import EventDecoder
from nbruntime.protocol.generate_event import read_event


@dataclass(frozen=True, slots=True)
class StreamFailure:
    """Why a stream cannot go on."""

    message: str  # the server's message, or the payload that is invalid
    status: int | None = None  # the server's status, if it sent one
    from_server: bool = True  # False if the payload is not an event of /generate


class DeltaDecoder:
    r"""Turns the bytes of a ``/generate`` stream into what each event adds.

    `items` are the answers so far, by index. `failure` is set by an error event or an invalid one; the
    events after it are ignored.

    Parameters
    ----------
    cumulative_text : bool
        True if the text is cumulative but the token ids are not, as with ``--stream-output`` of SGLang up
        to 0.5.2. All other kinds of stream are recognized.
    expected : int, optional
        Number of answers; an event with a higher index is invalid.
    scrub : callable
        Masks secrets in the server's message about a failure.

    Examples
    --------
    >>> decoder = DeltaDecoder()
    >>> first = b'data: {"text":"Hel","output_ids":[5],"meta_info":{"completion_tokens":1}}\n\n'
    >>> second = b'data: {"text":"Hello","output_ids":[5,6],"meta_info":{"completion_tokens":2}}\n\n'
    >>> [delta.text for delta in decoder.feed(first + second)], decoder.items[0].text
    (['Hel', 'lo'], 'Hello')
    """

    def __init__(
        self,
        *,
        cumulative_text: bool = False,
        expected: int | None = None,
        scrub: Callable[[str], str] = str,
    ) -> None:
        self.items: dict[int, Item] = {}
        self.failure: StreamFailure | None = None
        self._events = EventDecoder()
        self._cumulative_text = cumulative_text
        self._expected = expected
        self._scrub = scrub

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_scrub": str}  # the messages are masked already, and it may hold the client

    @property
    def done(self) -> bool:
        """True once ``[DONE]`` has come."""
        return self._events.done

    def feed(self, chunk: bytes) -> list[Delta]:
        """Take the next bytes, of any length; return a delta for each event that is complete now."""
        return self._deltas(self._events.feed(chunk))

    def close(self) -> list[Delta]:
        """End the stream; return the delta of a last event that is whole but has no empty line after it."""
        failed = self.failure is not None
        deltas = self._deltas(self._events.close())
        if not failed and self.failure is not None and not self.failure.from_server:
            self.failure = None  # the last event was cut short
        return deltas

    def _deltas(self, payloads: list[bytes]) -> list[Delta]:
        deltas = []
        for payload in payloads:
            if self.failure is not None:
                break
            item = None if self._cumulative_text else self.items.get(_index_of(payload))
            delta = None if item is None else item.extend(payload)
            if delta is None:
                delta = self._parse(payload)
            if delta is not None:
                deltas.append(delta)
        return deltas

    def _parse(self, payload: bytes) -> Delta | None:
        try:
            event = read_event(payload)
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict):
            self._fail(f"not a JSON object: {_excerpt(payload)}")
            return None
        if event.get("error") is not None:
            message, status = _failure_of(event["error"])
            self.failure = StreamFailure(self._scrub(message), status)
            return None
        index = event.get("index", 0)
        if first_invalid_field(event) or event.get("meta_info") is None or not self._is_index(index):
            self._fail(f"not an event of /generate: {_excerpt(payload)}")
            return None
        scrub_reason(event["meta_info"], self._scrub)
        item = self.items.get(index)
        if item is None:
            item = self.items[index] = Item(index)
        return item.take(event, payload, self._cumulative_text)

    def _is_index(self, index: Any) -> bool:
        return isinstance(index, int) and index >= 0 and (self._expected is None or index < self._expected)

    def _fail(self, message: str) -> None:
        self.failure = StreamFailure(self._scrub(message), from_server=False)


_INDEX = re.compile(rb'\},"index":(\d+)\}$')


def _index_of(raw: bytes) -> int:
    """Read the index at the end of an event; -1 if it must be parsed."""
    if raw.endswith(b"}}"):
        return 0
    found = _INDEX.search(raw, max(0, len(raw) - 24))
    return -1 if found is None else int(found[1])


def _failure_of(error: Any) -> tuple[str, int | None]:
    """Read the message and the status of an error event."""
    message, status = (error.get("message"), error.get("code")) if isinstance(error, dict) else (error, None)
    text = message if isinstance(message, str) else json.dumps(error)
    return text, status if isinstance(status, int) else None


def _excerpt(payload: bytes) -> str:
    text = payload[:200].decode("utf-8", "replace")
    return text + ("…" if len(payload) > 200 else "")
