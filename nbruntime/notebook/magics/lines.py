r"""The line of a magic: its options, and the values behind them.

A line is split first, and the values of variables are put in afterwards: ``--system {text}`` is one value,
whatever the text holds. Backslashes stay as they are, so that a regular expression can be typed.
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
    """An option of a line, and the values that stand behind it.

    Parameters
    ----------
    option : str
        As it was typed, with dashes; empty for the values that stand before any option.
    values : list of str
        Whether the option takes them all is for its parser to say.
    closed : bool
        Whether it was written ``--option=value``, and takes that value alone.
    """

    option: str
    values: list[str] = field(default_factory=list)
    closed: bool = False

    def words(self, takes: int) -> list[str]:
        """Write it so that no value is read as an option.

        Parameters
        ----------
        takes : int
            How many values the option takes; the others stand for themselves.

        Examples
        --------
        >>> Part("--stop", ["--", "-x"]).words(2)
        ['--stop=--', '--stop=-x']
        """
        takes = 1 if self.closed else takes if self.option else 0
        held = [f"{self.option}={value}" for value in self.values[:takes]]
        return (held or [self.option] * bool(self.option)) + self.values[takes:]


def split_line(line: str, names: Mapping[str, Any]) -> list[Part]:
    r"""Split a line into its options, and put in the values of ``$name`` and ``{expression}``.

    Parameters
    ----------
    line : str
        Quotes hold words together; there are no escapes. What begins with a quote, a brace or a dollar is no
        option, whatever it holds.
    names : mapping
        What variables and expressions are looked up in. What cannot be looked up stays as it is, and so
        does ``{3}`` or ``{2,4}``, which counts in a regular expression.

    Returns
    -------
    list of Part

    Raises
    ------
    UsageError
        If a quote is not closed, or is meant to be kept by a backslash.

    Examples
    --------
    >>> parts = split_line(r'--regex "\d{4} [a-z]+" --system {text}', {"text": "--Be brief."})
    >>> [part.values for part in parts]
    [['\\d{4} [a-z]+'], ['--Be brief.']]
    """
    rest = _WORD.sub("", line).strip()
    if rest:
        raise UsageError(
            f"A quote {rest[0]} is not closed.\nHold a value that has one in the other kind of quotes."
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
    """Raise UsageError if a key stands on the line."""
    if any(part.option in _KEY_OPTIONS for part in parts):
        raise UsageError(
            "A key on the line would stay in the notebook and in the history.\n"
            "Put it into an environment variable, and name that: --api-key-env VARIABLE."
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
                "A backslash keeps no quote: the quote after it ends the value.\n"
                "Hold a value that has one in the other kind of quotes, or in a variable: {name}."
            )


def _expanded(word: str, names: Mapping[str, Any]) -> str:
    try:
        text: str = DollarFormatter().vformat(_QUANTIFIER.sub(r"{{\1}}", word), args=[], kwargs=names)
    except Exception:  # noqa: BLE001 - as IPython does: what is no expression, or fails, is meant literally
        return word
    return text
