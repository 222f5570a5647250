"""The folder of converted models; each model is made in it exactly once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from nbruntime.embedded.models.progress import Report
from nbruntime.errors import ModelNotFoundError

TELL_SECONDS = 20.0
"""Interval at which a waiting process reports."""

POLL_SECONDS = 0.1
"""Interval at which it tries to take the lock."""


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
    """Make a folder of the cache, unless it is `complete`, and return it.

    If several processes ask at once, one makes the folder and the others wait and `report`. It is made beside
    its place and renamed when complete, so no process sees a part of it.

    Parameters
    ----------
    make : callable
        Takes an empty working folder, makes the model in a folder inside it and returns that. The rest of
        the working folder is deleted.

    Raises
    ------
    ModelNotFoundError
        If the cache cannot be written, or `make` raises it.
    """
    if complete(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent / f".{target.name}.lock", report):
            if complete(target):
                return target
            for left_over in target.parent.glob(f".{target.name}.partial-*"):
                shutil.rmtree(left_over)  # of a killed process: this one holds the lock
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
    """Hold a file lock, which the operating system releases when the process dies."""
    lock = FileLock(path)
    timeout = 0.0
    while True:
        try:
            lock.acquire(timeout=timeout, poll_interval=POLL_SECONDS)
            break
        except Timeout:
            report("waiting", None, None, "for another process that makes the same model")
            timeout = TELL_SECONDS
    try:
        yield
    finally:
        lock.release()


def _flush(folder: Path) -> None:
    """Flush the files to the disk, so that a power cut leaves no empty files."""
    for path in folder.iterdir():
        with path.open("r+b") as handle:  # Windows flushes only files open for writing
            os.fsync(handle.fileno())
