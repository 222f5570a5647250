"""The body of a streamed answer, for callers without an event loop."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from typing import Any

import requests
import urllib3.exceptions

from nbruntime.endpoint import transport_errors
from nbruntime.endpoint.causes import reason_of, timed_out
from nbruntime.endpoint.settings import Settings
from nbruntime.errors import NbruntimeError
from nbruntime.protocol.events import LAST_EVENT

CLOSED_AT_ONCE = 0.2
"""Seconds to wait for the end of a finished stream, so that its connection can be used again."""


class Body(Iterator[bytes]):
    """The body of a streamed answer, in the pieces in which it arrives; `path` is the route, for errors."""

    def __init__(self, settings: Settings, response: requests.Response, path: str) -> None:
        self._settings = settings
        self._response = response
        self._path = path
        self._tail = b""
        self._raw: Any = response.raw
        # Taken from urllib3, which returns the connection to the pool when the answer ends or fails: another
        # thread that closes the answer would close a connection that serves the next request.
        self._connection: Any = self._raw._connection
        self._raw._connection = None
        self._socket = _socket_of(self._raw)
        self._pieces = _pieces(self._raw)

    def __next__(self) -> bytes:
        try:
            piece = next(self._pieces)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            # ValueError and AttributeError: another thread has closed the response.
            problem = self._error(error)
        else:
            self._tail = piece[-32:]
            return piece
        raise problem

    def _error(self, error: Exception) -> NbruntimeError:
        if timed_out(error):
            return transport_errors.no_more_in_time(self._settings, self._path)
        return transport_errors.broken_off(self._settings, self._path, reason_of(error))

    def close(self) -> None:
        """Close the answer, from any thread; keep its connection if the answer is complete."""
        if self._connection is None:
            return
        kept = self._tail.endswith(LAST_EVENT) and self._read_end()
        if not kept:
            self._wake_reader()
        self._response.close()
        connection, self._connection = self._connection, None
        if kept:
            self._raw._pool._put_conn(connection)
        else:
            connection.close()

    def _read_end(self) -> bool:
        """Read on after the last event; return whether the answer ends there and its end has arrived."""
        if self._connection.sock is None:
            return False  # the answer ends with its connection
        self._tail = b""  # only once: an interrupt may leave half of the end unread
        try:
            self._connection.sock.settimeout(CLOSED_AT_ONCE)
            return not _has_more(self._raw) and next(self._pieces, None) is None
        except (urllib3.exceptions.HTTPError, OSError, ValueError):
            return False

    def _wake_reader(self) -> None:
        """Wake a thread that is reading the answer: closing would wait for it."""
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it is closed already
                # Not SSLSocket's own method: after it the reader would take encrypted bytes for text.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def _socket_of(raw: Any) -> socket.socket | None:
    """Find the socket of an answer; an answer that ends with its connection has taken it from there."""
    found = getattr(getattr(getattr(raw._fp, "fp", None), "raw", None), "_sock", None)
    return found if isinstance(found, socket.socket) else None


def _has_more(raw: Any) -> bool:
    """Whether more than the end of the answer has arrived: then its connection cannot be used again."""
    received = getattr(getattr(raw, "_fp", None), "fp", None)
    return received is not None and len(received.peek()) > len(_LAST_CHUNK)


_LAST_CHUNK = b"0\r\n\r\n"


def _pieces(raw: Any) -> Iterator[bytes]:
    """Read a body as it arrives, chunked or not."""
    if raw.chunked and raw.supports_chunked_reads():
        chunks = raw.read_chunked(None, decode_content=True)
        yield from chunks if raw.headers.get("content-encoding") else _chunks_together(raw, chunks)
        return
    if hasattr(raw, "read1"):
        while piece := raw.read1(65536, decode_content=True):
            yield piece
        return
    # urllib3 before 2.1 waits for the whole length that is asked for.
    while (received := raw._fp.fp) is not None:
        yield raw.read(len(received.peek()) or 1, decode_content=True)


def _chunks_together(raw: Any, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Join the chunks that have arrived together; urllib3 reads those that are longer than its buffer."""
    while True:
        joined, length = whole_chunks(raw._fp.fp.peek())
        if length:
            raw._fp.fp.read(length)
            yield joined
        elif (chunk := next(chunks, None)) is not None:
            yield chunk
        else:
            return


_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,8})\r\n")


def whole_chunks(received: bytes) -> tuple[bytes, int]:
    r"""Return the content of the whole chunks at the beginning, without the last one, and their length.

    Examples
    --------
    >>> whole_chunks(b"3\r\nabc\r\n2\r\nde\r\n5\r\nfg")
    (b'abcde', 15)
    """
    contents, length = [], 0
    while size := _CHUNK_SIZE.match(received, length):
        end = size.end() + int(size[1], 16)
        if end == size.end() or received[end : end + 2] != b"\r\n":
            break
        contents.append(received[size.end() : end])
        length = end + 2
    return b"".join(contents), length
