"""The folder where converted models are kept, and how a model gets into it exactly once."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nbruntime.embedded.models.progress import Report
from nbruntime.errors import ModelNotFoundError

TELL_SECONDS = 20.0
"""How often a process that waits for another one says so."""

POLL_SECONDS = 0.1
"""How often it looks whether the other one is done."""


def cache_folder() -> Path:
    """Name the folder of converted models.

    `$NBRUNTIME_CACHE/models`, else `$XDG_CACHE_HOME/nbruntime/models`, else `~/.cache/nbruntime/models`.

    Examples
    --------
    >>> os.environ["NBRUNTIME_CACHE"] = "/srv/nbruntime"
    >>> cache_folder()
    PosixPath('/srv/nbruntime/models')
    """
    if own := os.environ.get("NBRUNTIME_CACHE"):
        root = Path(own).expanduser()
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "nbruntime"
    return root / "models"


def made_once(
    target: Path, *, complete: Callable[[Path], bool], make: Callable[[Path], Path], report: Report
) -> Path:
    """Make a folder of the cache, unless it is there.

    Any number of processes may ask at once: one makes the folder, the others wait for it. It is made beside
    its place and renamed when it is whole, so that nobody ever sees a part of it.

    Parameters
    ----------
    target : Path
        The folder.
    complete : callable
        Says whether a folder is whole and may be used as it is.
    make : callable
        Given an empty working folder, makes the model in a folder below it and returns that. What else is in
        the working folder is thrown away.
    report : Report
        Told from time to time while another process is at work and this one waits.

    Returns
    -------
    Path
        `target`.

    Raises
    ------
    ModelNotFoundError
        When the cache cannot be written, or `make` raises it.
    """
    if complete(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent / f".{target.name}.lock", report):
            if complete(target):
                return target
            for left_over in target.parent.glob(f".{target.name}.partial-*"):
                shutil.rmtree(left_over)  # of a process that was killed: we hold the lock
            work = target.with_name(f".{target.name}.partial-{os.getpid()}")
            work.mkdir()
            try:
                made = make(work)
                _flush(made)
                if target.exists():
                    target.rename(work / "replaced")
                made.rename(target)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise ModelNotFoundError(
            f"The model cannot be written to the cache: {error.strerror or error}",
            where=str(error.filename or target),
            hint="Set NBRUNTIME_CACHE to a folder that can be written and has room for the model.",
        ) from error
    return target


@contextmanager
def _locked(path: Path, report: Report) -> Iterator[None]:
    """Hold a file lock; the operating system lets go of it when the process dies."""
    with path.open("w") as handle:
        tell_at = 0.0
        while not _try_lock(handle.fileno()):
            if time.monotonic() >= tell_at:  # who hears nothing for long takes this process for stuck
                report("waiting", None, None, "for another process that makes the same model")
                tell_at = time.monotonic() + TELL_SECONDS
            time.sleep(POLL_SECONDS)
        yield


if sys.platform == "win32":
    import msvcrt

    def _try_lock(fd: int) -> bool:
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _try_lock(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _flush(folder: Path) -> None:
    """Bring the files to the disk, so that after a power cut the name does not stand for empty files."""
    for path in folder.iterdir():
        with path.open("r+b") as handle:  # Windows flushes only what could be written
            os.fsync(handle.fileno())
