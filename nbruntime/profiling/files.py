"""Files of profiles and load tests: JSON with a kind and a version, compressed if so named."""

from __future__ import annotations

import contextlib
import gzip
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from nbruntime._version import __version__
from nbruntime.errors import ArgumentTypeError, ArgumentValueError

KINDS = {"profile": "Profile.load", "load test": "BenchResult.load"}
"""The kinds of files, and what reads them."""

Record = TypeVar("Record")

_GZIP = b"\x1f\x8b"
_FORMAT = "nbruntime"


def save_record(path: str | os.PathLike[str], record: Mapping[str, Any], *, kind: str, version: int) -> Path:
    """Write a record as JSON, and return its path; a file of that name is replaced only by a whole one.

    Parameters
    ----------
    path : path
        Name of the file; compressed if it ends in ``.gz``.
    record : mapping
        What JSON takes. Numbers that are not finite become null.
    kind : str
        One of `KINDS`.
    version : int
        Version of the record's form, from 1; raised when older releases could not read it.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    path = Path(path)
    header = {"format": _FORMAT, "kind": kind, "version": version, "written_by": f"nbruntime {__version__}"}
    body = msgspec.json.encode({**header, "record": record})
    if path.name.endswith(".gz"):
        body = gzip.compress(body, compresslevel=6, mtime=0)
    with replacing(path) as file:
        file.write(body)
    return path


def load_record(path: str | os.PathLike[str], *, kind: str, version: int) -> tuple[dict[str, Any], int]:
    """Read a file of `save_record`: its record, and the version that it was written in.

    Parameters
    ----------
    path : path
        Name of the file; whether it is compressed is seen from its content.
    kind : str
        The kind that the caller reads.
    version : int
        The newest version that the caller reads.

    Raises
    ------
    ArgumentValueError
        If it is no such file, or a newer one.
    OSError
        If the file cannot be read.
    """
    where = os.fspath(path)
    body = Path(path).read_bytes()
    try:
        if body.startswith(_GZIP):
            body = gzip.decompress(body)
        content = msgspec.json.decode(body)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise ArgumentValueError(f"The compressed file of a {kind} is damaged", where=where) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArgumentValueError(f"Not a saved {kind}: {error}", where=where, hint=_hint(kind)) from None
    match content:
        case {"format": "nbruntime", "kind": str(found), "version": int(written), "record": dict(record)}:
            pass
        case _:
            raise ArgumentValueError(f"Not a saved {kind}", where=where, hint=_hint(kind))
    if found != kind:
        reader = KINDS.get(found)
        hint = f"Read it with {reader}(...)." if reader else _hint(kind)
        raise ArgumentValueError(f"The file holds a {found}, not a {kind}", where=where, hint=hint)
    if written > version:
        raise ArgumentValueError(
            f"The {kind} was saved in version {written} of its format; this nbruntime reads up to {version}",
            where=where,
            hint=f"Update nbruntime; the file was written by {content.get('written_by', 'a newer one')}.",
        )
    return record, written


def plain(value: Any) -> Any:
    """Return dataclasses, structs, tuples and what numpy counts as what JSON takes.

    Examples
    --------
    >>> from nbruntime.profiling.records import Phases
    >>> plain([Phases(sent=1.0, ended=2.0)])[0]["ended"]
    2.0
    """
    return msgspec.to_builtins(value, str_keys=True, enc_hook=_numpy_as_builtin)


def from_plain(value: Any, kind: type[Record], *, what: str) -> Record:
    """Make of the dicts and lists of `plain` what they were made of.

    Parameters
    ----------
    value : object
        Dicts, lists, numbers and texts.
    kind : type
        What to make: a dataclass, a struct, a list of these.
    what : str
        What it is, for the error.

    Raises
    ------
    ArgumentTypeError
        If a field is missing or has the wrong type.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ArgumentTypeError(
            f"Not the record of a {what}: {error}", hint="Pass the result of to_dict()."
        ) from None


def _numpy_as_builtin(value: Any) -> Any:
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be saved")


def _hint(kind: str) -> str:
    return f"Files of .save() of a {kind} can be read."


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside `path` that takes its place if the block ends without an error."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
