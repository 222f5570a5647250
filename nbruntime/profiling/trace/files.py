"""Finds trace files, and reads and unpacks them in blocks."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nbruntime.errors import TraceError

BLOCK = 256 << 10
MOST_EXPANSION = 400
"""A trace packs to between a tenth and a fiftieth; what unpacks to more than this is no trace."""

_EXPANSION_ALLOWED = 256 << 20
_NAME = re.compile(
    r"(?P<run>.*?)-?(?P<rank>TP-\d+(?:-DP-\d+)?(?:-PP-\d+)?(?:-EP-\d+)?)(?:-(?P<stage>[A-Za-z_]\w*))?$"
)
_RANK_PART = re.compile(r"(TP|DP|PP|EP)-?(\d+)")
_SUFFIX = re.compile(r"(\.pt)?(\.trace)?\.json(\.gz)?$")
_STAGES = {"PREFILL": "EXTEND"}
_GZIP = b"\x1f\x8b"
_MERGED = "merged-"


@dataclass
class TraceFile:
    """One file of a recording.

    Parameters
    ----------
    path : Path
        Where it lies.
    run : str
        What the files of one recording have in common.
    rank : str
        Such as ``"TP0"`` or ``"TP0-DP1"``; empty if the name does not say.
    stage : str
        ``"EXTEND"``, ``"DECODE"`` or another one, if the file holds the steps of one stage only.
    damage : str
        After reading: why it ended early; empty if it did not.
    """

    path: Path
    run: str = ""
    rank: str = ""
    stage: str = ""
    damage: str = ""

    @classmethod
    def named(cls, path: Path) -> TraceFile:
        """Read recording, rank and stage from the name.

        Examples
        --------
        >>> file = TraceFile.named(Path("1718000000.5-TP-0-DP-1-DECODE.trace.json.gz"))
        >>> file.run, file.rank, file.stage
        ('1718000000.5', 'TP0-DP1', 'DECODE')
        """
        name = _SUFFIX.sub("", path.name)
        if found := _NAME.fullmatch(name):
            stage = (found["stage"] or "").upper()
            return cls(path, found["run"], rank_label(found["rank"]), _STAGES.get(stage, stage))
        return cls(path, name.removeprefix(_MERGED))

    @property
    def merged(self) -> bool:
        """Whether SGLang made it from the files of all ranks."""
        return self.path.name.startswith(_MERGED)

    def blocks(self, report: Callable[[int], object]) -> Iterator[bytes]:
        """Give the unpacked text; `report` gets the number of bytes read from the disk.

        Raises
        ------
        TraceError
            If the file cannot be opened.
        """
        try:
            with self.path.open("rb") as file:
                packed = file.read(2) == _GZIP
                file.seek(0)
                raw = _read(iter(lambda: file.read(BLOCK), b""), report)
                yield from self._unpacked(raw) if packed else raw
        except OSError as error:
            raise TraceError(f"Cannot read the file: {error.strerror}", where=str(self.path)) from error

    def _unpacked(self, raw: Iterator[bytes]) -> Iterator[bytes]:
        """Unpack gzip, member by member; stops where it is damaged, and keeps all before."""
        read = written = 0
        unpacker = zlib.decompressobj(wbits=31)
        for data in raw:
            read += len(data)
            while data:
                if unpacker.eof:
                    if not data.lstrip(b"\0"):  # padding
                        break
                    unpacker = zlib.decompressobj(wbits=31)
                try:
                    block = unpacker.decompress(data, BLOCK)
                except zlib.error:
                    self.damage = "Its compressed data are damaged"
                    return
                data = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
                written += len(block)
                if block:
                    yield block
                if written > max(_EXPANSION_ALLOWED, MOST_EXPANSION * read):
                    self.damage = f"It unpacks to more than {MOST_EXPANSION} times its size"
                    return
        if not unpacker.eof:
            rest = unpacker.flush()
            if rest:
                yield rest
            self.damage = "Its compressed data end too early"


def _read(blocks: Iterator[bytes], report: Callable[[int], object]) -> Iterator[bytes]:
    done = 0
    for block in blocks:
        done += len(block)
        report(done)
        yield block


def rank_label(text: str) -> str:
    """Write a rank in one way, whether from a file's name or from a merged trace; empty if there is none.

    Examples
    --------
    >>> rank_label("TP-0-DP-1"), rank_label("[TP00-DP01] 2625"), rank_label("python")
    ('TP0-DP1', 'TP0-DP1', '')
    """
    return "-".join(f"{kind}{int(number)}" for kind, number in _RANK_PART.findall(text))


def find_files(paths: Sequence[Path]) -> tuple[list[TraceFile], list[str]]:
    """Find the traces of one recording, and say which others were left out.

    Parameters
    ----------
    paths : sequence of Path
        Files; or folders, of which the newest recording is taken.

    Raises
    ------
    TraceError
        If there are none.
    """
    if not paths:
        raise TraceError("No file was given")
    files: list[TraceFile] = []
    notes: list[str] = []
    for path in paths:
        if path.is_dir():
            found, left_out = _newest(path)
            files += found
            notes += left_out
        elif path.exists():
            files.append(TraceFile.named(path))
        else:
            raise TraceError("The file does not exist", where=str(path))
    unique = {file.path.resolve(): file for file in files}
    if len(unique) < len(files):
        notes.append("A file that was given twice was read once.")
    return list(unique.values()), notes


def _newest(folder: Path) -> tuple[list[TraceFile], list[str]]:
    try:
        names = sorted(path for path in folder.iterdir() if _SUFFIX.search(path.name) and path.is_file())
    except OSError as error:
        raise TraceError(f"Cannot read the folder: {error.strerror}", where=str(folder)) from error
    traces = [path for path in names if ".trace.json" in path.name] or names
    if not traces:
        below = sorted(path.parent.name for path in folder.glob("*/*.trace.json*"))
        hint = f"Its folder {below[-1]!r} has traces: give that one." if below else None
        raise TraceError("The folder has no traces", where=str(folder), hint=hint)
    runs: dict[str, list[TraceFile]] = {}
    for path in traces:
        file = TraceFile.named(path)
        runs.setdefault(file.run, []).append(file)
    newest = max(runs, key=lambda run: max(file.path.stat().st_mtime for file in runs[run]))
    files = runs.pop(newest)
    files = [file for file in files if not file.merged] or files  # a merged trace repeats the others
    notes = []
    if runs:
        others = sum(map(len, runs.values()))
        notes.append(
            f"The folder {folder.name!r} has {others} more traces, of other recordings: give their paths."
        )
    return files, notes
