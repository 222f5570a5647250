"""Reads the traces of a recording."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path

from nbruntime.errors import TraceError
from nbruntime.profiling.trace.files import find_files
from nbruntime.profiling.trace.recording import Recording
from nbruntime.profiling.trace.trace import Trace

PathName = str | PathLike[str]


def read_trace(
    paths: PathName | Iterable[PathName], *, progress: Callable[[int, int], object] | None = None
) -> Trace:
    """Read the traces that a server's profiler wrote.

    Parameters
    ----------
    paths : path or iterable of paths
        Files (``.trace.json``, ``.trace.json.gz``), of several ranks and stages or merged; or a folder, of
        which the newest recording is read.
    progress : callable, optional
        Called with the bytes done and the total.

    Returns
    -------
    Trace
        What can be read; its ``notes`` say what cannot.

    Raises
    ------
    TraceError
        If nothing can be read.
    """
    given = [paths] if isinstance(paths, str | PathLike) else list(paths)
    files, notes = find_files([Path(path) for path in given])
    total = sum(file.path.stat().st_size for file in files)
    recording = Recording()
    recording.notes += notes
    failed: list[TraceError] = []
    before = 0
    for file in files:

        def report(done: int, before: int = before) -> None:
            if progress is not None:
                progress(before + done, total)

        try:
            recording.read(file, report)
        except TraceError as error:
            failed.append(error)
        before += file.path.stat().st_size
    if failed and len(failed) == len(files):
        raise failed[0]
    recording.notes += [f"{Path(error.where or '').name}: {error.message}." for error in failed]
    return recording.trace()
