"""The decoder of event streams (server-sent events, as the HTML standard defines them).

`nbruntime.protocol.delta_decoder` reads what the events of ``/generate`` mean.
"""

from __future__ import annotations

DONE = b"[DONE]"
"""The payload that ends a stream, in SGLang as in OpenAI's API."""

LAST_EVENT = b"data: " + DONE + b"\n\n"
"""The last event of a stream, as SGLang writes it."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventDecoder:
    r"""Splits the bytes of a ``text/event-stream`` into the data of its events.

    Chunks may end anywhere, also within a character or a line end. Lines end in LF, CR LF or CR. Comments,
    empty events and fields other than ``data`` are ignored; several ``data`` lines of one event are joined
    by LF. `done` is True once ``[DONE]`` has come; what follows it is ignored.

    Examples
    --------
    >>> decoder = EventDecoder()
    >>> decoder.feed(b'data: {"text": "Hel')
    []
    >>> decoder.feed(b'lo"}\n\ndata: [DO')
    [b'{"text": "Hello"}']
    >>> decoder.feed(b"NE]\n\n"), decoder.done
    ([], True)
    """

    __slots__ = ("_after_cr", "_held", "_started", "done")

    def __init__(self) -> None:
        self.done = False
        self._held: list[bytes] = []  # chunks of the event that is not complete yet
        self._after_cr = False  # the last byte was CR: a LF after it belongs to it
        self._started = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes, of any length; return the data of the events that are complete now."""
        if not chunk or self.done:
            return []
        if self._after_cr:
            self._after_cr = False
            if chunk.startswith(b"\n"):
                chunk = chunk[1:]
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n" not in chunk:
            # No event ends here. Long events come in many chunks, which are joined only once.
            self._held.append(chunk)
            return []
        if self._held:
            self._held.append(chunk)
            chunk = b"".join(self._held)
            self._held.clear()
        if not self._started:
            self._started = True
            chunk = chunk.removeprefix(_BYTE_ORDER_MARK)
        end = chunk.rfind(b"\n\n")
        rest = chunk[end + 2 :] if end >= 0 else chunk
        if rest:
            self._held.append(rest)
        return [] if end < 0 else self._until_done(_payloads(chunk[:end]))

    def close(self) -> list[bytes]:
        """End the stream; return the data of a last event without an empty line, which may be cut off."""
        rest = b"".join(self._held)
        self._held.clear()
        if not self._started:
            rest = rest.removeprefix(_BYTE_ORDER_MARK)
        return [] if self.done else self._until_done([_data_of(rest)])

    def _until_done(self, payloads: list[bytes]) -> list[bytes]:
        if DONE in payloads:
            self.done = True
            payloads = payloads[: payloads.index(DONE)]
        return [payload for payload in payloads if payload]


def _payloads(events: bytes) -> list[bytes]:
    """Split whole events, and return their data."""
    if events.startswith(b"data: "):
        payloads = events[6:].split(b"\n\ndata: ")
        if events.count(b"\n") == 2 * (len(payloads) - 1):
            return payloads  # each is one line of data, the only form that SGLang writes
    return [_data_of(event) for event in events.split(b"\n\n")]


def _data_of(event: bytes) -> bytes:
    """Join the ``data`` lines of one event."""
    lines = []
    for line in event.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines)
