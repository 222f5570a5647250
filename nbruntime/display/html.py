"""The one place where text becomes HTML, and where what could mislead or harm is made visible.

Model output, server logs and server info are untrusted: they are escaped everywhere they are shown.
"""

from __future__ import annotations

import html
import re

_MISLEADING = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters: terminal escapes begin with one
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that turn the direction of the text around them
    "\u2028\u2029\ufeff"  # line ends that only some programs see, and nothing at all
    "\ud800-\udfff\ufffe\uffff"  # halves of characters and none, which UTF-8 or XML cannot hold
    "]"
)


def visible(text: str) -> str:
    r"""Show characters that a terminal or a browser would obey instead of printing.

    Line feeds and tabs stay; a carriage return before a line feed is dropped.

    Parameters
    ----------
    text : str
        Untrusted.

    Returns
    -------
    str
        Safe to print; still to be escaped for HTML.

    Examples
    --------
    >>> visible("red: \x1b[31m")
    'red: ␛[31m'
    >>> visible("user\u202etxt.exe")
    'user⟨U+202E⟩txt.exe'
    """
    return _MISLEADING.sub(_picture, text.replace("\r\n", "\n"))


def escape(text: object) -> str:
    """Write untrusted text as HTML.

    Parameters
    ----------
    text : object
        Shown by its ``str``.

    Returns
    -------
    str
        Without any markup of its own, also inside a quoted attribute.

    Examples
    --------
    >>> escape("<b>")
    '&lt;b&gt;'
    """
    return html.escape(visible(str(text)), quote=True)


def shortened(text: str, width: int) -> str:
    r"""Cut a text to one line of at most `width` characters.

    Examples
    --------
    >>> shortened("one two\nthree four", 10)
    'one two t…'
    """
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def _picture(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"
