"""Reads one answer of HTTP/1.1 from the bytes of a connection, as they come."""

from __future__ import annotations

from collections.abc import Callable

MOST_HEAD = 2**16
"""Bytes that the head of an answer may have."""


class NotHttpError(Exception):
    """The bytes are not an answer of HTTP/1.1."""


class HttpAnswer:
    r"""Takes the bytes of an answer apart.

    Parameters
    ----------
    take : callable
        Takes the pieces of the body, in order.

    Attributes
    ----------
    status : int
        0 until the head is complete.
    headers : dict of str to str
        By names in small letters.
    done : bool
        True once the answer is complete.
    rest : bytes
        Bytes that came after it, which should not be.

    Examples
    --------
    >>> pieces = []
    >>> answer = HttpAnswer(pieces.append)
    >>> answer.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nHel")
    >>> answer.feed(b"lo\r\n0\r\n\r\n")
    >>> answer.status, pieces, answer.done
    (200, [b'Hel', b'lo'], True)
    """

    __slots__ = ("_chunked", "_held", "_left", "_take", "_trailer", "done", "headers", "rest", "status")

    def __init__(self, take: Callable[[bytes], object]) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.done = False
        self.rest = b""
        self._take = take
        self._held = b""  # an incomplete head or line
        self._chunked = False
        self._left: int | None = 0  # bytes of the body or chunk still to come; None until the connection ends
        self._trailer = False  # the last chunk has come

    @property
    def until_close(self) -> bool:
        """Whether the body ends with the connection."""
        return self.status > 0 and not self._chunked and self._left is None

    @property
    def keeps_connection(self) -> bool:
        """Whether the connection can be used again."""
        closes = self.headers.get("connection", "").lower() == "close"
        return self.done and not closes and not self.until_close and not self.rest

    def feed(self, data: bytes) -> None:
        """Take the next bytes, of any length."""
        if self._held:
            data, self._held = self._held + data, b""
        if not self.status and not (data := self._read_head(data)):
            return
        if self._chunked:
            self._read_chunks(data)
        elif self._left is None:
            self._take(data)
        else:
            piece = data[: self._left]
            self._left -= len(piece)
            self._take(piece)
            if not self._left:
                self._end(data[len(piece) :])

    def _read_head(self, data: bytes) -> bytes:
        """Read the head once it is complete, and return what follows it."""
        while not self.status:
            head, end, rest = data.partition(b"\r\n\r\n")
            if not end:
                if len(data) > MOST_HEAD or not b"HTTP/1.".startswith(data[:7]):
                    raise NotHttpError(repr(data[:40]))
                self._held = data
                return b""
            first, *lines = head.decode("latin-1").split("\r\n")
            version, _, status = first.partition(" ")
            if not version.startswith("HTTP/1.") or not status[:3].isdigit():
                raise NotHttpError(repr(first[:40]))
            data = rest
            if not 100 <= int(status[:3]) < 200:  # those come before the answer
                self.status = int(status[:3])
        pairs = (line.partition(":") for line in lines)
        self.headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        self._chunked = self.headers.get("transfer-encoding", "").lower().endswith("chunked")
        length = self.headers.get("content-length")
        self._left = 0 if self._chunked else int(length) if length and length.isdigit() else None
        if not self._chunked and (self._left == 0 or self.status in (204, 304)):
            self._end(data)
            return b""
        return data

    def _read_chunks(self, data: bytes) -> None:
        """Read chunks: their length in a line, their bytes, and an empty line's end."""
        at = 0
        while at < len(data) and not self.done:
            if self._left:  # the chunk's bytes, and CR LF after them
                left = self._left
                piece = data[at : at + left]
                at += len(piece)
                self._left = left - len(piece)
                body = piece[: max(0, left - 2)]
                if body:
                    self._take(body)
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                self._held = data[at:]
                return
            line, at = data[at:end], end + 2
            if self._trailer:
                if not line:
                    self._end(data[at:])
                continue
            digits = line.partition(b";")[0].strip()
            if not digits or digits.strip(b"0123456789abcdefABCDEF"):  # int() would take a sign, too
                raise NotHttpError(f"a chunk of {line[:20]!r} bytes")
            size = int(digits, 16)
            self._trailer = size == 0
            self._left = size + 2 if size else 0

    def _end(self, rest: bytes) -> None:
        self.done, self.rest = True, rest
