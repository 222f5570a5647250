"""Finds the files that a server's profiler has written, once they are complete."""

from __future__ import annotations

import glob
import gzip
import os
import time
import zlib
from pathlib import Path

FILES_WAIT = 15.0
"""Most seconds to wait for files that are still being written."""

FIRST_FILE_WAIT = 1.0
"""Most seconds to wait for the first file; a server has written it when it answers."""

QUIET_SECONDS = 0.5
"""Seconds without a change after which no further file is expected, if the number of ranks is unknown."""

LOOK_SECONDS = 0.1
"""Seconds between two looks."""

_BLOCK = 1 << 20

_CHECKED_BYTES = 256 << 20
"""Size above which a compressed file counts as complete once it stops growing."""


def pattern_of(folder: str, profile_id: str) -> str:
    """Return the names of a profile's traces, as a pattern of files.

    Examples
    --------
    >>> pattern_of("traces/", "1700000000.5")
    'traces/*1700000000.5*.trace.json*'
    """
    return f"{folder.rstrip('/')}/*{glob.escape(profile_id)}*.trace.json*"


def find_traces(
    folder: str,
    profile_id: str,
    *,
    since: float,
    ranks: int = 1,
    merged: bool = False,
) -> list[str]:
    """Return the paths of a profile's traces, merged ones included; wait until they are complete.

    Parameters
    ----------
    folder, profile_id : str
        Where they are written, and the part of their names that tells them from others.
    since : float
        Unix time before which they were not written.
    ranks : int
        Number of files to wait for; one for each rank.
    merged : bool
        Whether to wait for a merged one, too.
    """
    begun = time.monotonic()
    changed, before = begun, None
    while True:
        found = _stat(folder, profile_id, since)
        now = time.monotonic()
        if found != before:
            changed, before = now, found
        names = list(map(os.path.basename, found))
        expected = len(names) >= ranks and (not merged or any(map(is_merged, names)))
        over = now - begun > (FILES_WAIT if found else FIRST_FILE_WAIT)
        if over or expected or (found and now - changed >= QUIET_SECONDS):
            whole = [path for path in found if _is_whole(path)]
            if over or len(whole) == len(found):
                return whole
        time.sleep(LOOK_SECONDS)


def is_merged(name: str) -> bool:
    """Return True for the name of a trace of all ranks together.

    Examples
    --------
    >>> is_merged("merged-17.trace.json.gz"), is_merged("17-TP-0.trace.json.gz")
    (True, False)
    """
    return name.startswith("merged-")


def _stat(folder: str, profile_id: str, since: float) -> dict[str, tuple[int, float]]:
    found = {}
    for path in sorted(glob.glob(pattern_of(glob.escape(folder), profile_id))):
        try:
            stat = os.stat(path)
        except OSError:  # renamed meanwhile
            continue
        if stat.st_mtime >= since - 1.0:
            found[path] = (stat.st_size, stat.st_mtime)
    return found


def _is_whole(path: str) -> bool:
    """Return True if a file can be read to its end: a compressed one to its checksum, another to a brace."""
    try:
        if path.endswith(".gz"):
            if os.path.getsize(path) > _CHECKED_BYTES:
                return True
            with gzip.open(path) as file:
                begun = False  # an empty file is read to its end, too
                while file.read(_BLOCK):
                    begun = True
            return begun
        with Path(path).open("rb") as file:
            file.seek(max(0, os.path.getsize(path) - 64))
            return file.read().rstrip().endswith((b"}", b"]"))
    except (OSError, EOFError, zlib.error):
        return False
