"""The folder where converted models are kept, and how a model gets into it exactly once."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nbruntime.embedded.models.progress import Report
from nbruntime.errors import ModelNotFoundError


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
        Told once when another process is at work and this one waits.

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
    """Hold a file lock; the kernel lets go of it when the process dies."""
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("waiting", None, None, "for another process that makes the same model")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _flush(folder: Path) -> None:
    """Bring the files to the disk, so that after a power cut the name does not stand for empty files."""
    for path in folder.iterdir():
        with path.open("rb") as handle:
            os.fsync(handle.fileno())
