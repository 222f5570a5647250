"""Markdown of a model, as HTML that is safe to show.

Raw HTML is escaped, links lead to the web only, and images become links: to load one would tell its server
that, and by whom, the answer is read. Code is coloured by Pygments.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from nbruntime.markup import escape, visible

_FENCES = ("```", "~~~")


@cache
def _parser() -> Any:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False, "highlight": _highlighted, "xhtmlOut": True})
    parser.enable(["table", "strikethrough"])
    parser.add_render_rule("image", _image_as_link)
    parser.add_render_rule("link_open", _link_open)
    parser.validateLink = _is_web_address
    return parser


def render_markdown(text: str) -> str:
    r"""Write markdown as HTML.

    Parameters
    ----------
    text : str
        Untrusted, and perhaps not at its end yet: an open code block counts as closed.

    Returns
    -------
    str
        Well-formed; no element but those of markdown.

    Examples
    --------
    >>> render_markdown("*so* <script>")
    '<p><em>so</em> &lt;script&gt;</p>\n'
    """
    html: str = _parser().render(visible(text))
    return html


def settled_length(text: str) -> int:
    r"""Tell how much of a growing text is made of blocks that nothing can change any more.

    Parameters
    ----------
    text : str
        Markdown, beginning at the beginning of a block.

    Returns
    -------
    int
        Length up to the last empty line outside of a code block or a list; 0 if there is none.

    Examples
    --------
    >>> settled_length("One.\n\nTwo is not at its e")
    6
    """
    settled = position = 0
    fence = ""
    in_list = False
    for line in text.splitlines(keepends=True):
        position += len(line)
        was_open, fence = bool(fence), _fence_after(fence, line)
        if was_open or fence:
            continue
        if line.strip():
            in_list = _continues_list(line, in_list)
        elif line.endswith("\n") and not in_list:
            settled = position
    return settled


def open_fence(text: str) -> str:
    r"""Give the line that opened a code block which is open at the end of a text, or nothing.

    Examples
    --------
    >>> open_fence("```python\nx = 1\n")
    '```python\n'
    """
    opener = fence = ""
    for line in text.splitlines():
        before, fence = fence, _fence_after(fence, line)
        if fence and not before:
            opener = line + "\n"
    return opener if fence else ""


def _fence_after(fence: str, line: str) -> str:
    """Give the marker of the code block that is open after a line, or nothing."""
    bare = line.strip()
    if fence:
        return "" if bare.startswith(fence) and not bare.strip(fence[0]) else fence
    marker = next((each for each in _FENCES if bare.startswith(each)), "")
    return bare[: len(bare) - len(bare.lstrip(marker[0]))] if marker else ""


def _continues_list(line: str, in_list: bool) -> bool:
    """Tell whether a line that is not empty belongs to a list: empty lines do not end one."""
    bare = line.lstrip()
    if bare[:2] in ("- ", "* ", "+ ") or bare.split(" ", 1)[0].rstrip(".)").isdigit():
        return True
    return in_list and line[0] in " \t"


def _highlighted(code: str, language: str, _attributes: str) -> str:
    """Colour a code block; unknown languages stay plain."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        return escape(code)
    coloured: str = highlight(code, lexer, HtmlFormatter(nowrap=True))
    return coloured


def _image_as_link(_renderer: Any, tokens: Sequence[Any], index: int, _options: Any, _env: Any) -> str:
    token = tokens[index]
    source = token.attrGet("src") or ""
    label = escape(f"image: {token.content or source}")
    if not _is_web_address(source):
        return label
    return f'<a href="{escape(source)}" rel="noopener noreferrer" target="_blank">{label}</a>'


def _link_open(_renderer: Any, tokens: Sequence[Any], index: int, _options: Any, _env: Any) -> str:
    address = escape(tokens[index].attrGet("href") or "")
    return f'<a href="{address}" rel="noopener noreferrer" target="_blank">'


def _is_web_address(address: str) -> bool:
    return address.strip().lower().startswith(("http://", "https://", "mailto:"))
