"""The expressions that patterns and EBNF rules are made of, and how llguidance writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

LAST = 0x10FFFF
"""The last code point."""

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Text:
    """A fixed text."""

    text: str


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of some ranges of code points; no range allows none."""

    ranges: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class Sequence:
    """One expression after the other; without parts the empty text."""

    parts: tuple[Expression, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several expressions."""

    options: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """An expression `least` to `most` times; without `most` any number of times."""

    part: Expression
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of the grammar, by its name."""

    name: str


Expression = Text | Chars | Sequence | Choice | Repeat | Rule


def complement(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Give the ranges of all other characters; surrogates are none.

    Examples
    --------
    >>> complement([(0x20, LAST)])
    ((0, 31),)
    """
    left, at = [], 0
    for low, high in sorted([*ranges, (0xD800, 0xDFFF)]):
        if low > at:
            left.append((at, low - 1))
        at = max(at, high + 1)
    return (*left, (at, LAST)) if at <= LAST else tuple(left)


def rules_in(expression: Expression) -> Iterator[str]:
    """Name the rules that an expression uses."""
    match expression:
        case Rule(name):
            yield name
        case Sequence(parts) | Choice(parts):
            for part in parts:
                yield from rules_in(part)
        case Repeat(part):
            yield from rules_in(part)
        case _:
            pass


def size(expression: Expression, sizes: Mapping[str, int]) -> int:
    """Count letters and classes; `sizes` has those of the rules."""
    match expression:
        case Text(text):
            return len(text)
        case Chars():
            return 1
        case Sequence(parts) | Choice(parts):
            return sum(size(part, sizes) for part in parts)
        case Repeat(part):
            return size(part, sizes)
        case Rule(name):
            return sizes[name]


def as_regex(expression: Expression) -> str:
    r"""Write an expression without rules as a regular expression.

    Examples
    --------
    >>> as_regex(Sequence((Text("a/"), Repeat(Chars(((48, 57),)), 1, None))))
    'a\\x{2f}[\\x{30}-\\x{39}]+'
    """
    match expression:
        case Text(text):
            return "".join(map(_letter, text))
        case Chars(()):
            return f"[^{_code(0)}-{_code(LAST)}]"
        case Chars(ranges):
            return "[" + "".join(f"{_code(low)}-{_code(high)}" for low, high in ranges) + "]"
        case Sequence(parts):
            return "".join(_grouped(part) if isinstance(part, Choice) else as_regex(part) for part in parts)
        case Choice(options):
            return "|".join(map(as_regex, options))
        case Repeat(part):
            return (as_regex(part) if isinstance(part, Chars) else _grouped(part)) + _times(expression)
        case Rule(name):
            raise ValueError(f"A pattern has no rules, but here is {name}.")


def as_lark(expression: Expression, rule: Callable[[str], str], *, letters: bool) -> str:
    """Write an expression in llguidance's Lark.

    Parameters
    ----------
    rule : callable
        Gives the name of a rule in the written grammar.
    letters : bool
        Whether texts are written letter by letter: a lexer takes the longest text that it finds, and would
        miss what a parser of single letters finds.
    """
    match expression:
        case Text("") | Repeat(most=0):
            return '""'
        case Text(text):
            return " ".join(f"/{_letter(each)}/" for each in text) if letters else f"/{as_regex(expression)}/"
        case Chars():
            return f"/{as_regex(expression)}/"
        case Sequence(parts):
            return " ".join(f"({as_lark(part, rule, letters=letters)})" for part in parts) or '""'
        case Choice(options):
            return " | ".join(as_lark(option, rule, letters=letters) for option in options)
        case Repeat(part):
            return f"({as_lark(part, rule, letters=letters)}){_times(expression)}"
        case Rule(name):
            return rule(name)


def _grouped(expression: Expression) -> str:
    return f"(?:{as_regex(expression)})"


def _letter(letter: str) -> str:
    if "\ud800" <= letter <= "\udfff":
        raise ValueError(f"U+{ord(letter):X} is half of a character and matches no text.")
    return letter if letter.isascii() and letter.isalnum() else _code(ord(letter))


def _code(point: int) -> str:
    return f"\\x{{{point:x}}}"


def _times(repeat: Repeat) -> str:
    match repeat.least, repeat.most:
        case 0, None:
            return "*"
        case 1, None:
            return "+"
        case least, most:
            return f"{{{least},{'' if most is None else most}}}"
