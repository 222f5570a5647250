"""Regular expressions as SGLang reads them: they match the whole text, and classes hold ASCII only.

As in SGLang 0.5.23 (xgrammar 0.2.7), anchors say nothing new, groups have no memory, and word boundaries,
back-references, look-behind, inline flags and Unicode classes are refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from nbruntime.embedded.sampling.grammar.expressions import (
    LAST,
    Chars,
    Choice,
    Expression,
    Range,
    Repeat,
    Sequence,
    Text,
    complement,
)

_DIGITS: tuple[Range, ...] = ((0x30, 0x39),)
_WORD: tuple[Range, ...] = (*_DIGITS, (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE: tuple[Range, ...] = ((0x09, 0x0D), (0x20, 0x20))
_CLASSES = {
    letter: ranges
    for name, own in (("d", _DIGITS), ("w", _WORD), ("s", _SPACE))
    for letter, ranges in ((name, own), (name.upper(), complement(own)))
}
_CONTROLS = {"n": 0x0A, "t": 0x09, "r": 0x0D, "f": 0x0C, "v": 0x0B, "a": 0x07, "e": 0x1B, "0": 0x00}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_REFUSED = (
    dict.fromkeys("bB", "word boundaries")
    | dict.fromkeys("pP", "Unicode classes")
    | dict.fromkeys("123456789k", "back-references")
)
_ANY = Repeat(Chars(complement(())), 0, None)
_DOT = Chars(complement([(0x0A, 0x0A)]))


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern's expression, and others that its look-aheads want the same text to match."""

    body: Expression
    also: tuple[Expression, ...]


def read_pattern(pattern: str, *, in_schema: bool = False) -> Pattern:
    """Read a regular expression; ValueError names what is wrong or not served, and where.

    Parameters
    ----------
    pattern : str
        It matches the whole text, with or without anchors.
    in_schema : bool
        Whether it is of a JSON schema: there SGLang takes look-aheads, ``(?P<name>...)`` and doubled
        repetitions, too. Look-aheads at the beginning are heeded if they are positive, or of the form
        ``(?![...]*$)``; SGLang ignores all.

    Examples
    --------
    >>> read_pattern("^a$").body
    Text(text='a')
    """
    return _Reader(pattern, in_schema).read()


class _Reader:
    def __init__(self, pattern: str, in_schema: bool) -> None:
        self._pattern = pattern
        self._in_schema = in_schema
        self._at = 0
        self._depth = 0
        self._begun = False  # whether something but anchors and look-aheads was read
        self._also: list[Expression] = []

    def read(self) -> Pattern:
        body = self._choice()
        if self._at < len(self._pattern):
            raise self._wrong("this bracket closes no group")
        # In one of several options, a look-ahead says nothing of the whole text.
        return Pattern(body, () if isinstance(body, Choice) else tuple(self._also))

    def _choice(self) -> Expression:
        options = [self._sequence()]
        while self._take("|"):
            options.append(self._sequence())
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _sequence(self) -> Expression:
        parts: list[Expression] = []
        while self._peek() not in ("", "|", ")"):
            atom = self._atom()
            if atom is not None:
                self._begun = True
                parts.append(self._repeated(atom))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _atom(self) -> Expression | None:
        """Read one element; None for one that matches no text by itself."""
        letter = self._peek()
        if letter in "*+?{":
            raise self._wrong("there is nothing to repeat")
        self._at += 1
        match letter:
            case "^" | "$":
                return None
            case ".":
                return _DOT
            case "[":
                return self._class()
            case "(":
                return self._group()
            case "\\":
                return self._escape()
        return Text(letter)

    def _repeated(self, atom: Expression) -> Expression:
        start = self._at
        match self._peek():
            case "*":
                least, most = 0, None
            case "+":
                least, most = 1, None
            case "?":
                least, most = 0, 1
            case "{":
                return self._counted(atom)
            case _:
                return atom
        self._at = start + 1
        return self._greedy(Repeat(atom, least, most))

    def _counted(self, atom: Expression) -> Expression:
        end = self._pattern.find("}", self._at)
        low, comma, high = self._pattern[self._at + 1 : end].partition(",")
        if end < 0 or not low.strip().isdecimal() or (high.strip() and not high.strip().isdecimal()):
            raise self._wrong("a number of repetitions is {m}, {m,} or {m,n}; write \\{ for a bracket")
        least = int(low)
        most = int(high) if high.strip() else None if comma else least
        if most is not None and most < least:
            raise self._wrong(f"the lower bound {least} is above {most}")
        self._at = end + 1
        return self._greedy(Repeat(atom, least, most))

    def _greedy(self, repeat: Repeat) -> Expression:
        # Whether a repetition is lazy or possessive makes no difference to a whole match.
        if not self._take("?") and self._in_schema:
            self._take("+")
        if self._peek() not in ("*", "+", "?", "{"):
            return repeat
        if self._in_schema:
            return self._repeated(repeat)
        raise self._wrong("a repetition cannot be repeated; put it in brackets")

    def _group(self) -> Expression | None:
        rest = self._pattern[self._at : self._at + 3]
        if rest.startswith(("?=", "?!")):
            self._assertion(negative=rest[1] == "!")
            return None
        if rest.startswith(("?<=", "?<!")):
            raise self._wrong("look-behind is not served")
        if rest.startswith("?:"):
            self._at += 2
        elif rest.startswith("?<") or (self._in_schema and rest == "?P<"):
            end = self._pattern.find(">", self._at)
            if end < 0:
                raise self._wrong("the group's name does not end")
            self._at = end + 1
        elif rest.startswith("?"):
            raise self._wrong("a group that begins so is not served")
        return self._inside()[0]

    def _assertion(self, *, negative: bool) -> None:
        if not self._in_schema:
            raise self._wrong("look-ahead is not served")
        counts, begun = not self._begun and not self._depth, self._begun
        self._at += 2
        inside, to_end = self._inside()
        self._begun = begun
        if counts and not negative:
            self._also.append(inside if to_end else Sequence((inside, _ANY)))
        if counts and negative and to_end:
            match inside:
                case Repeat(Chars(ranges), 0, None):
                    self._also.append(Sequence((_ANY, Chars(complement(ranges)), _ANY)))
                case _:
                    pass

    def _inside(self) -> tuple[Expression, bool]:
        """Read the rest of a group, and whether it ends with an anchor."""
        self._depth += 1
        inside = self._choice()
        self._depth -= 1
        anchored = self._pattern[: self._at].endswith("$") and not self._pattern[: self._at].endswith("\\$")
        if not self._take(")"):
            raise self._wrong("a bracket is not closed")
        return inside, anchored

    def _class(self) -> Expression:
        negated = self._take("^")
        ranges: list[Range] = []
        if self._peek() == "]" and not negated:
            raise self._wrong("the class is empty")
        while not self._take("]"):
            low = self._class_item()
            if self._peek() == "-" and self._peek(1) not in ("", "]") and _is_letter(low):
                self._at += 1
                high = self._class_item()
                if not _is_letter(high) or high < low:
                    raise self._wrong("the range is empty")
                low = ((low[0][0], high[0][0]),)
            ranges.extend(low)
        return Chars(complement(ranges) if negated else tuple(ranges))

    def _class_item(self) -> tuple[Range, ...]:
        letter = self._peek()
        if not letter:
            raise self._wrong("the class is not closed")
        self._at += 1
        if letter != "\\":
            return ((ord(letter), ord(letter)),)
        if self._take("b"):
            return ((0x08, 0x08),)
        match self._escape():
            case Chars(ranges):
                return ranges
            case Text(text):
                return ((ord(text), ord(text)),)
        return ()

    def _escape(self) -> Expression | None:
        letter = self._peek()
        if not letter:
            raise self._wrong("the escape is not finished")
        if letter in _REFUSED:
            raise self._wrong(f"{_REFUSED[letter]} are not served")
        self._at += 1
        if letter in _CLASSES:
            return Chars(_CLASSES[letter])
        if letter in _CONTROLS:
            return Text(chr(_CONTROLS[letter]))
        if letter in _HEX_DIGITS:
            return Text(self._code_point(_HEX_DIGITS[letter]))
        return None if letter in "AzZ" else Text(letter)

    def _code_point(self, digits: int) -> str:
        end = self._at + digits
        text = self._pattern[self._at : end]
        if text.startswith("{"):
            end = self._pattern.find("}", self._at) + 1
            text = self._pattern[self._at + 1 : end - 1]
        if not _is_hexadecimal(text) or int(text, 16) > LAST:
            raise self._wrong("the number of the character is not hexadecimal")
        self._at = end
        return chr(int(text, 16))

    def _peek(self, ahead: int = 0) -> str:
        return self._pattern[self._at + ahead : self._at + ahead + 1]

    def _take(self, letter: str) -> bool:
        taken = self._peek() == letter
        self._at += taken
        return taken

    def _wrong(self, reason: str) -> ValueError:
        return ValueError(f"Pattern {self._pattern!r}: {reason}, at character {self._at + 1}.")


def _is_letter(ranges: tuple[Range, ...]) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]


def _is_hexadecimal(text: str) -> bool:
    return bool(text) and all(letter in "0123456789abcdefABCDEF" for letter in text)
