r"""Split the line of a magic into options and their values.

Variables are expanded after the split: ``--system {text}`` is one value, whatever the text contains.
Backslashes are literal, so that a regular expression can be typed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from IPython.core.error import UsageError
from IPython.utils.text import DollarFormatter

_WORD = re.compile(r"""(?:"[^"]*"|'[^']*'|\{[^{}]*\}|[^\s"'])+""")
_PIECE = re.compile(r""""([^"]*)"|'([^']*)'|(\{[^{}]*\}|[^"'])""")
_OPTION = re.compile(r"--?[A-Za-z][^=]*")
_QUANTIFIER = re.compile(r"\{(\d+,?\d*|,\d+)\}")
_KEY_OPTIONS = ("--api-key", "--admin-api-key", "--key", "--token", "--password")


@dataclass(slots=True)
class Part:
    """An option of a line, and all values up to the next one, which may be more than the option takes."""

    option: str  # with dashes; empty for values without an option
    values: list[str] = field(default_factory=list)
    closed: bool = False  # True if written --option=value: the option takes only that value


def split_line(line: str, names: Mapping[str, Any]) -> list[Part]:
    r"""Split a line into its options, and expand ``$name`` and ``{expression}`` in their values.

    Quotes group words; there are no escapes. A word that begins with a quote, a brace or a dollar is never an
    option. An expression that fails stays as it is, and so does ``{3}`` or ``{2,4}`` of a regular expression.

    Examples
    --------
    >>> parts = split_line(r'--regex "\d{4} [a-z]+" --system {text}', {"text": "--Be brief."})
    >>> [part.values for part in parts]
    [['\\d{4} [a-z]+'], ['--Be brief.']]
    """
    rest = _WORD.sub("", line).strip()
    if rest:
        raise UsageError(
            f"A quote {rest[0]} is not closed.\nPut a value that contains one in the other kind of quotes."
        )
    parts = [Part("")]
    for word in _WORD.findall(line):
        option = _OPTION.match(word)
        if option is None:
            parts[-1].values.append(_value(word, names))
            continue
        name, rest = option[0], word[option.end() :]
        name = name.replace("_", "-") if name.startswith("--") else name
        if rest:
            parts += [Part(name, [_value(rest[1:], names)], closed=True), Part("")]
        else:
            parts.append(Part(name))
    return [part for part in parts if part.option or part.values]


def refuse_keys(parts: Iterable[Part]) -> None:
    """Raise UsageError if a key is on the line."""
    if any(part.option in _KEY_OPTIONS and not _is_auto(part) for part in parts):
        raise UsageError(
            "A key on this line would stay in the notebook and in the history.\n"
            "Put it into an environment variable, and give the variable's name: --api-key-env VARIABLE."
        )


def _is_auto(part: Part) -> bool:
    """Return True for ``--api-key auto``, with which %sgl_launch makes a key."""
    return part.option == "--api-key" and part.values[:1] == ["auto"]


def _value(word: str, names: Mapping[str, Any]) -> str:
    """Remove the quotes of a word, and expand its variables."""
    pieces = list(_PIECE.finditer(word))
    for piece, following in pairwise(piece[0] for piece in pieces):
        quoted = len(piece) > 1 or following[0] in "\"'"
        if quoted and piece.rstrip("\"'").endswith("\\"):
            raise UsageError(
                "A backslash does not escape a quote: the quote after it ends the value.\n"
                "Put a value that contains one in the other kind of quotes, or in a variable: {name}."
            )
    text = "".join(piece[piece.lastindex or 0] for piece in pieces)
    try:
        return str(DollarFormatter().vformat(_QUANTIFIER.sub(r"{{\1}}", text), args=[], kwargs=names))
    except Exception:  # noqa: BLE001 - like IPython: a failing expression is literal text
        return text
