"""Escapes untrusted text (model output, server logs, server info) for terminals and HTML."""

from __future__ import annotations

import html
import re

_MISLEADING = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters: terminal escapes begin with one
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that change the direction of the text
    "\u2028\u2029\ufeff"  # line ends for some programs only, and an invisible mark
    "\ud800-\udfff\ufffe\uffff"  # surrogates and non-characters, which UTF-8 or XML cannot hold
    "]"
)


def visible(text: str) -> str:
    r"""Replace characters that control a terminal or a browser by visible ones; does not escape HTML.

    Line feeds and tabs stay; a carriage return before a line feed is dropped.

    Examples
    --------
    >>> visible("user\u202etxt.exe: \x1b[31m")
    'user⟨U+202E⟩txt.exe: ␛[31m'
    """
    return _MISLEADING.sub(_visible_form, text.replace("\r\n", "\n"))


def escape(text: object) -> str:
    """Escape the ``str`` of an object for HTML, also inside a quoted attribute."""
    return html.escape(visible(str(text)), quote=True)


def shortened(text: str, width: int) -> str:
    """Shorten a text to one line of at most `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def _visible_form(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"
