"""Reads lines of a pipe without Python's buffers, whose locks a thread would hold while the process ends."""

from __future__ import annotations

import os


class Lines:
    """Reads the lines of a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._held = b""

    def next(self) -> bytes:
        """Wait for the next line and return it with its end; what is left at the end of the file."""
        pieces = [self._held]
        while b"\n" not in pieces[-1]:
            piece = os.read(self._descriptor, 2**20)
            if not piece:
                self._held = b""
                return b"".join(pieces)
            pieces.append(piece)
        line, end, self._held = b"".join(pieces).partition(b"\n")
        return line + end
