"""Reads recorded workloads: files of Mooncake, BurstGPT and TraceLab."""

from __future__ import annotations

import csv
import gzip
import io
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from nbruntime.errors import ArgumentTypeError, ArgumentValueError
from nbruntime.profiling.bench.lengths import MOST_TOKENS

BLOCK_TOKENS = 512
"""Tokens of one block of Mooncake's ``hash_ids``."""

_FORMS = (
    "Three forms are known: Mooncake (JSON lines with timestamp in ms, input_length, output_length, "
    "hash_ids), BurstGPT (CSV with Timestamp in s, Request tokens, Response tokens) and TraceLab (CSV with "
    "id, input_len, output_len, arrival_time in ms, round_idx, tool_wait_after_ms, prefix_len)."
)


@dataclass(frozen=True, slots=True)
class ReplayedRequest:
    """One request of a recorded workload.

    Parameters
    ----------
    at : float
        Seconds after the first request.
    prompt_tokens, output_tokens : int
        Lengths, at least 1.
    blocks : tuple of (int, int)
        Key and length of the blocks of the prompt that other requests share; empty if unknown.
    after : int or None
        Number of the request of the same session that it follows, instead of `at`.
    wait : float
        Seconds between the end of that request and this one.
    """

    at: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[tuple[int, int], ...] = ()
    after: int | None = None
    wait: float = 0.0


def read_replay(path: str | Path, *, limit: int | None = None) -> list[ReplayedRequest]:
    """Read a recorded workload in the order of its times; its form is told by its columns.

    Requests without prompt or answer, which failed when they were recorded, are left out.

    Parameters
    ----------
    path : str or Path
        The file, which may be compressed with gzip.
    limit : int, optional
        Number of requests to read at most.

    Raises
    ------
    ArgumentValueError
        If the file is of no known form, or a line is wrong; names the line.
    """
    if not isinstance(path, str | os.PathLike):
        raise ArgumentTypeError(
            f"replay is a {type(path).__name__}", where="replay", hint="Give the path of a file."
        )
    file = Path(path).expanduser()
    try:
        rows = list(_rows(file))
        known = _READERS[_form(file, rows)](rows)
    except OSError as error:
        raise ArgumentValueError(
            f"The file cannot be read: {error.strerror or error}", where=str(file), hint="Check the path."
        ) from error
    except (EOFError, zlib.error, csv.Error) as error:
        raise ArgumentValueError(f"The file is damaged: {error}", where=str(file), hint=_FORMS) from error
    except _WrongLine as wrong:
        raise ArgumentValueError(
            f"Line {wrong.line} is wrong: {wrong}", where=f"{file}:{wrong.line}", hint=_FORMS
        ) from None
    if not known:
        raise ArgumentValueError("The file holds no request", where=str(file), hint=_FORMS)
    return known[:limit]


class _WrongLine(ValueError):
    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of a file, by the names of its columns."""

    line: int
    values: dict[str, Any]

    def number(self, name: str) -> float:
        try:
            value = float(self.values[name])
        except (TypeError, ValueError, KeyError):
            raise _WrongLine(self.line, f"{name} is {self.values.get(name)!r}, not a number") from None
        if not 0 <= value < float("inf"):
            raise _WrongLine(self.line, f"{name} is {value:g}")
        return value

    def tokens(self, name: str) -> int:
        value = int(self.number(name))
        if value > MOST_TOKENS:
            raise _WrongLine(self.line, f"{name} is {value:,}, more than a prompt or an answer has")
        return value


def _rows(file: Path) -> Iterator[_Row]:
    data = file.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    text = data.decode("utf-8-sig", "replace")
    if text.lstrip().startswith("{"):
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    values = msgspec.json.decode(line)
                except msgspec.DecodeError as error:
                    raise _WrongLine(number, f"not JSON ({error})") from None
                if not isinstance(values, dict):
                    raise _WrongLine(number, "not a JSON object")
                yield _Row(number, values)
        return
    reader = csv.DictReader(io.StringIO(text))
    for values in reader:
        yield _Row(reader.line_num, {(name or "").strip(): value for name, value in values.items()})


def _form(file: Path, rows: list[_Row]) -> str:
    """Tell the form of a file by the columns of its first row."""
    columns = set(rows[0].values) if rows else set()
    for form, needed in _COLUMNS.items():
        if needed <= columns:
            return form
    found = ", ".join(sorted(map(str, columns))[:12]) or "none"
    raise ArgumentValueError(
        f"The file is of no known form: its columns are {found}", where=str(file), hint=_FORMS
    )


def _read_mooncake(rows: list[_Row]) -> list[ReplayedRequest]:
    found = []
    for row in rows:
        tokens, output = row.tokens("input_length"), row.tokens("output_length")
        if tokens and output:
            hashes = row.values.get("hash_ids") or []
            if not isinstance(hashes, list) or not all(type(each) is int for each in hashes):
                raise _WrongLine(row.line, "hash_ids is not a list of numbers")
            blocks = _hashed_blocks(hashes, tokens)
            found.append(ReplayedRequest(row.number("timestamp") / 1000, tokens, output, blocks))
    return _from_zero(found)


def _hashed_blocks(hashes: Iterable[int], tokens: int) -> tuple[tuple[int, int], ...]:
    """Divide a prompt by the hashes of its blocks; the last is shorter, and a rest without hash is new."""
    blocks = []
    for key in hashes:
        length = min(BLOCK_TOKENS, tokens)
        if length <= 0:
            break
        blocks.append((key % 2**63, length))
        tokens -= length
    return tuple(blocks)


def _read_burstgpt(rows: list[_Row]) -> list[ReplayedRequest]:
    found = []
    for row in rows:
        tokens, output = row.tokens("Request tokens"), row.tokens("Response tokens")
        if tokens and output:
            found.append(ReplayedRequest(row.number("Timestamp"), tokens, output))
    return _from_zero(found)


def _from_zero(found: list[ReplayedRequest]) -> list[ReplayedRequest]:
    found.sort(key=lambda each: each.at)
    first = found[0].at if found else 0.0
    return [
        ReplayedRequest(each.at - first, each.prompt_tokens, each.output_tokens, each.blocks)
        for each in found
    ]


def _read_tracelab(rows: list[_Row]) -> list[ReplayedRequest]:
    """Read sessions: a later round waits for the answer before it, and for the tool that ran between."""
    sessions: dict[str, list[_Row]] = {}
    for row in rows:
        sessions.setdefault(str(row.values["id"]), []).append(row)
    begun = sorted(
        (min(row.number("arrival_time") for row in session) / 1000, number, session)
        for number, session in enumerate(sessions.values())
    )
    first = begun[0][0] if begun else 0.0
    found: list[ReplayedRequest] = []
    for at, number, session in begun:
        previous: _Row | None = None
        for row in sorted(session, key=lambda each: each.number("round_idx")):
            tokens = row.tokens("prefix_len") + row.tokens("input_len")
            wait = 0.0 if previous is None else previous.number("tool_wait_after_ms") / 1000
            after = None if previous is None else len(found) - 1
            # The rounds of a session share the beginning of one sequence of tokens.
            blocks = ((number, max(tokens, 1)),)
            output = max(row.tokens("output_len"), 1)
            found.append(ReplayedRequest(at - first, max(tokens, 1), output, blocks, after, wait))
            previous = row
    return found


_COLUMNS = {
    "Mooncake": {"timestamp", "input_length", "output_length"},
    "BurstGPT": {"Timestamp", "Request tokens", "Response tokens"},
    "TraceLab": {"id", "input_len", "output_len", "arrival_time", "round_idx", "prefix_len"},
}
_READERS = {"Mooncake": _read_mooncake, "BurstGPT": _read_burstgpt, "TraceLab": _read_tracelab}
