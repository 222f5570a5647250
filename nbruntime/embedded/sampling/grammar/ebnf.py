"""SGLang's EBNF (xgrammar's, 0.2.7), written for llguidance.

A rule is ``name ::= choices`` with its name first in a line; line breaks mean nothing else. Rules are made of
``"texts"``, ``[classes]``, names, brackets, ``*``, ``+``, ``?``, ``{m,n}`` and ``Regex("...")``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from nbruntime.embedded.sampling.grammar.expressions import (
    LAST,
    Chars,
    Choice,
    Expression,
    Range,
    Repeat,
    Rule,
    Sequence,
    Text,
    as_lark,
    complement,
    rules_in,
    size,
)
from nbruntime.embedded.sampling.grammar.patterns import read_pattern

_ROOT = "root"
_MOST_ELEMENTS = 10_000
"""Letters and classes of a grammar that becomes one regular expression."""
_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_TOKEN = re.compile(
    r"""(?P<assign>::=)
    | (?P<name>[A-Za-z_.-][A-Za-z0-9_.-]*)
    | (?P<number>[0-9]+)
    | (?P<text>"(?:\\[^\r\n]|[^"\\\r\n])*")
    | (?P<chars>\[(?:\\[^\r\n]|[^\]\\\r\n])*\])
    | (?P<sign>\(=|[(){}|,*+?=])""",
    re.VERBOSE,
)
_ITEM = re.compile(
    r"\\x(?P<x>[0-9A-Fa-f]{1,2})|\\u(?P<u>[0-9A-Fa-f]{4})|\\U(?P<U>[0-9A-Fa-f]{8})|\\(?P<escaped>.)|(?P<plain>[^\\])",
    re.DOTALL,
)
_ESCAPES = {
    "n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "0": "\0", "e": "\x1b",
    "\\": "\\", '"': '"', "'": "'", "?": "?", "/": "/",
}  # fmt: skip
_CLASS_ESCAPES = _ESCAPES | {letter: letter for letter in r"^$.*+()[]{}|-"}
_MACROS = ("TagDispatch", "Token", "ExcludeToken", "TokenTagDispatch", "Substring")


def read_ebnf(text: str) -> str:
    r"""Write SGLang's EBNF in llguidance's Lark; ValueError names what is wrong, and its line and column.

    Examples
    --------
    >>> print(read_ebnf('root ::=\n  "a"\n  | b\nb ::= [0-9]').strip())
    start: R0
    R0: /a/ | R1
    R1: /[\x{30}-\x{39}]/
    """
    rules = _Parser(text).parse()
    numbers = {name: number for number, name in enumerate(rules)}
    letters = not _is_small_and_regular(rules)

    def name_of(name: str) -> str:
        return f"{'r' if letters else 'R'}{numbers[name]}"

    lines = [f"{name_of(name)}: {as_lark(each, name_of, letters=letters)}" for name, each in rules.items()]
    return "\n".join([f"start: {name_of(_ROOT)}", *lines, ""])


def _is_small_and_regular(rules: dict[str, Expression]) -> bool:
    """Whether the grammar can be one regular expression, which a lexer follows fast and exactly."""
    sizes: dict[str, int] = {}
    try:
        for name in TopologicalSorter({name: rules_in(each) for name, each in rules.items()}).static_order():
            sizes[name] = size(rules[name], sizes)
    except CycleError:
        return False
    return sizes[_ROOT] <= _MOST_ELEMENTS


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._scan())
        self._next = 0
        self._names = self._name_rules()

    def parse(self) -> dict[str, Expression]:
        rules: dict[str, Expression] = {}
        while self._peek().kind != "end":
            name = self._expect("rule", "a rule's name")
            self._expect("assign", "::=")
            rules[name] = self._choice()
            if self._take("(="):  # it says what follows the rule, which other rules say, too
                self._choice()
                self._expect(")", ")")
        return rules

    def _scan(self) -> list[_Token]:
        tokens: list[_Token] = []
        at = 0
        while True:
            at = self._skip(at)
            if at == len(self._text):
                return [*tokens, _Token("end", "the end", at)]
            found = _TOKEN.match(self._text, at)
            if found is None:
                raise self._wrong(at, _unfinished(self._text[at]))
            kind = str(found.lastgroup)
            tokens.append(_Token(found[0] if kind == "sign" else kind, found[0], at))
            at = found.end()

    def _skip(self, at: int) -> int:
        found = _SPACE.match(self._text, at)
        return found.end() if found else at

    def _name_rules(self) -> set[str]:
        """Find the rules: names before ``::=``."""
        names: set[str] = set()
        for number, token in enumerate(self._tokens):
            if token.kind != "assign":
                continue
            before = self._tokens[number - 1] if number else None
            if before is None or before.kind != "name":
                raise self._wrong(token.at, "there is no rule's name before ::=")
            if number > 1 and self._place(self._tokens[number - 2].at)[0] == self._place(before.at)[0]:
                raise self._wrong(before.at, "a rule's name must be the first word of its line")
            if before.text in names:
                raise self._wrong(before.at, f"rule {before.text!r} is defined twice")
            names.add(before.text)
            self._tokens[number - 1] = _Token("rule", before.text, before.at)
        if _ROOT not in names:
            raise self._wrong(0, f"there is no rule {_ROOT!r}")
        return names

    def _choice(self) -> Expression:
        options = [self._sequence()]
        while self._take("|"):
            options.append(self._sequence())
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _sequence(self) -> Expression:
        parts = [self._repeated()]
        while self._peek().kind not in ("|", ")", "(=", "rule", "end"):
            parts.append(self._repeated())
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _repeated(self) -> Expression:
        part = self._element()
        if self._take("*"):
            return Repeat(part, 0, None)
        if self._take("+"):
            return Repeat(part, 1, None)
        if self._take("?"):
            return Repeat(part, 0, 1)
        if not self._take("{"):
            return part
        at = self._peek().at
        least = int(self._expect("number", "a number"))
        most: int | None = least
        if self._take(","):
            most = None if self._peek().kind == "}" else int(self._expect("number", "a number"))
        self._expect("}", "}")
        if most is not None and most < least:
            raise self._wrong(at, f"the lower bound {least} is above {most}")
        return Repeat(part, least, most)

    def _element(self) -> Expression:
        token = self._peek()
        self._next += 1
        match token.kind:
            case "(":
                inside = Sequence() if self._peek().kind == ")" else self._choice()
                self._expect(")", ")")
                return inside
            case "text":
                return Text("".join(letter for letter, _ in self._letters(token, _ESCAPES)))
            case "chars":
                return self._chars(token)
            case "name":
                return self._named(token)
            case _:
                raise self._wrong(token.at, f"expected a text, class, name or bracket, not {token.text}")

    def _named(self, token: _Token) -> Expression:
        if token.text in _MACROS:
            raise self._wrong(token.at, f"{token.text}(...) is not served by the embedded server")
        if token.text == "Regex":
            self._expect("(", "(")
            pattern = self._peek()
            self._expect("text", "a pattern in quotation marks")
            self._expect(")", ")")
            try:
                return read_pattern("".join(each for each, _ in self._letters(pattern, _ESCAPES))).body
            except ValueError as error:
                raise self._wrong(pattern.at, str(error)) from error
        if token.text not in self._names:
            raise self._wrong(token.at, f"rule {token.text!r} is not defined")
        return Rule(token.text)

    def _chars(self, token: _Token) -> Expression:
        letters = self._letters(token, _CLASS_ESCAPES)
        negated = letters[:1] == [("^", False)]
        ranges: list[Range] = []
        at = int(negated)
        while at < len(letters):
            low = high = letters[at][0]
            if at + 2 < len(letters) and letters[at + 1] == ("-", False):
                high = letters[at + 2][0]
                at += 2
            if high < low:
                raise self._wrong(token.at, f"the range {low}-{high} is empty")
            ranges.append((ord(low), ord(high)))
            at += 1
        return Chars(complement(ranges) if negated else tuple(ranges))

    def _letters(self, token: _Token, escapes: dict[str, str]) -> list[tuple[str, bool]]:
        """Give the characters of a text or a class, and whether each was escaped."""
        letters = []
        for found in _ITEM.finditer(token.text, 1, len(token.text) - 1):
            if found["plain"]:
                letters.append((found["plain"], False))
            elif found["escaped"]:
                if found["escaped"] not in escapes:
                    raise self._wrong(token.at + found.start(), f"there is no escape {found[0]}")
                letters.append((escapes[found["escaped"]], True))
            else:
                point = int(found["x"] or found["u"] or found["U"], 16)
                if point > LAST:
                    raise self._wrong(token.at + found.start(), f"there is no character {found[0]}")
                letters.append((chr(point), True))
        return letters

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, kind: str) -> bool:
        taken = self._peek().kind == kind
        self._next += taken
        return taken

    def _expect(self, kind: str, what: str) -> str:
        token = self._peek()
        if not self._take(kind):
            raise self._wrong(token.at, f"expected {what}, not {token.text}")
        return token.text

    def _place(self, at: int) -> tuple[int, int]:
        before = self._text[:at].replace("\r\n", "\n").replace("\r", "\n")
        return before.count("\n") + 1, len(before) - before.rfind("\n")

    def _wrong(self, at: int, reason: str) -> ValueError:
        line, column = self._place(at)
        return ValueError(f"EBNF at line {line}, column {column}: {reason}.")


def _unfinished(letter: str) -> str:
    kinds = {'"': "the text is not closed in its line", "[": "the class is not closed in its line"}
    return kinds.get(letter, f"unexpected character {letter}")
