"""Reads the traces of a recording."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import accumulate
from os import PathLike
from pathlib import Path

from nbruntime.errors import TraceError
from nbruntime.profiling.trace.files import TraceFile, find_files
from nbruntime.profiling.trace.progress import Progress, reported
from nbruntime.profiling.trace.recording import Recording
from nbruntime.profiling.trace.trace import Trace

PathName = str | PathLike[str]


def read_trace(paths: PathName | Iterable[PathName], *, progress: Progress = None) -> Trace:
    """Read the traces that a server's profiler wrote.

    Parameters
    ----------
    paths : path or iterable of paths
        Files (``.trace.json`` or ``.trace.json.gz``) of one or several ranks and stages, or merged by SGLang;
        or a folder, of which the newest recording is read.
    progress : callable, False or None
        Called with the bytes done and the total. By default a long reading shows its progress in a notebook
        and in a terminal; False shows nothing.

    Returns
    -------
    Trace
        What can be read; its ``notes`` say what cannot.

    Raises
    ------
    TraceError
        If nothing can be read.

    Examples
    --------
    >>> import json, pathlib, tempfile
    >>> step = {"ph": "X", "cat": "user_annotation", "name": "step[DECODE bs=8]", "ts": 10, "dur": 2500}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "1718000000.5-TP-0.trace.json")
    ...     _ = path.write_text(json.dumps({"traceEvents": [step], "baseTimeNanoseconds": 1718 * 10**15}))
    ...     trace = read_trace(folder)
    >>> trace.ranks, trace.steps[0].stage, trace.steps[0].batch_size, trace.duration
    (['TP0'], 'DECODE', 8, 0.0025)
    """
    given = [paths] if isinstance(paths, str | PathLike) else list(paths)
    files, notes = find_files([Path(path) for path in given])
    what = files[0].path.name + (f" and {len(files) - 1} more" if len(files) > 1 else "")
    with reported(progress, what) as report:
        return _read_all(files, notes, report)


def _read_all(files: list[TraceFile], notes: list[str], report: Callable[[int, int], object]) -> Trace:
    """Read files into one trace; TraceError if none of them can be read."""
    sizes = [file.path.stat().st_size for file in files]
    recording = Recording(notes)
    failed: list[TraceError] = []
    for file, before in zip(files, accumulate(sizes, initial=0), strict=False):

        def report_file(done: int, before: int = before) -> None:
            report(before + done, sum(sizes))

        try:
            recording.read(file, report_file)
        except TraceError as error:
            failed.append(error)
            notes.append(f"{file.path.name}: {error.message}.")
    if len(failed) == len(files):
        raise failed[0]
    return recording.trace()
