r"""Split the line of a magic into options and their values.

Variables are expanded after the split: ``--system {text}`` is one value, whatever the text contains.
Backslashes are literal, so that a regular expression can be typed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
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
    """An option of a line, and the values that follow it.

    Parameters
    ----------
    option : str
        With dashes; empty for values before the first option.
    values : list of str
        All values up to the next option, which may be more than the option takes.
    closed : bool
        Whether it was written ``--option=value``, and takes only that value.
    """

    option: str
    values: list[str] = field(default_factory=list)
    closed: bool = False

    def words(self, takes: int) -> list[str]:
        """Return words for argparse in which no value is read as an option that takes `takes` values.

        Examples
        --------
        >>> Part("--stop", ["--", "-x"]).words(2)
        ['--stop=--', '--stop=-x']
        """
        takes = 1 if self.closed else takes if self.option else 0
        held = [f"{self.option}={value}" for value in self.values[:takes]]
        return (held or [self.option] * bool(self.option)) + self.values[takes:]


def split_line(line: str, names: Mapping[str, Any]) -> list[Part]:
    r"""Split a line into its options, and expand ``$name`` and ``{expression}``.

    Parameters
    ----------
    line : str
        Quotes group words; there are no escapes. A word that begins with a quote, a brace or a dollar is
        never an option.
    names : mapping
        Variables. An expression that fails stays as it is, and so does ``{3}`` or ``{2,4}``, a quantifier of
        a regular expression.

    Raises
    ------
    UsageError
        If a quote is not closed, or follows a backslash as if escaped.

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
        parts.append(Part(name.replace("_", "-") if name.startswith("--") else name, closed=bool(rest)))
        if rest:
            parts[-1].values.append(_value(rest[1:], names))
            parts.append(Part(""))
    return [part for part in parts if part.option or part.values]


def refuse_keys(parts: Iterable[Part]) -> None:
    """Raise UsageError if a key is on the line."""
    if any(part.option in _KEY_OPTIONS for part in parts):
        raise UsageError(
            "A key on the line would stay in the notebook and in the history.\n"
            "Set an environment variable to it, and name that: --api-key-env VARIABLE."
        )


def _value(word: str, names: Mapping[str, Any]) -> str:
    pieces = list(_PIECE.finditer(word))
    _refuse_escapes([piece[0] for piece in pieces])
    return _expanded("".join(piece[piece.lastindex or 0] for piece in pieces), names)


def _refuse_escapes(pieces: Sequence[str]) -> None:
    for piece, following in pairwise(pieces):
        quoted = len(piece) > 1 or following[0] in "\"'"
        if quoted and piece.rstrip("\"'").endswith("\\"):
            raise UsageError(
                "A backslash does not escape a quote: the quote after it ends the value.\n"
                "Put a value that contains one in the other kind of quotes, or in a variable: {name}."
            )


def _expanded(word: str, names: Mapping[str, Any]) -> str:
    try:
        text: str = DollarFormatter().vformat(_QUANTIFIER.sub(r"{{\1}}", word), args=[], kwargs=names)
    except Exception:  # noqa: BLE001 - like IPython: a failing expression is literal text
        return word
    return text
