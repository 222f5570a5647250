"""A log file of limited size."""

from __future__ import annotations

import contextlib
import os

__all__ = ["CappedLog"]


class CappedLog:
    """A log file that keeps its head and its tail and never grows beyond `limit` bytes.

    The file is shortened in place, so that a reader's open file stays valid: to an eighth of the limit for
    the head, three eighths for the tail.
    """

    def __init__(self, path: str, limit: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._limit = limit

    def write(self, data: bytes) -> None:
        """Append, and shorten if needed. A full disk loses the log, not the server."""
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._fd, data) :]
            size = os.fstat(self._fd).st_size
            if size > self._limit:
                self._shorten(size)

    def _shorten(self, size: int) -> None:
        head = os.pread(self._fd, self._limit // 8, 0)
        head = head[: head.rfind(b"\n") + 1]
        tail = os.pread(self._fd, size, size - 3 * self._limit // 8)
        tail = tail[tail.find(b"\n") + 1 :]
        left_out = size - len(head) - len(tail)
        os.ftruncate(self._fd, len(head))
        os.write(self._fd, b"... %d bytes left out ...\n" % left_out + tail)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
