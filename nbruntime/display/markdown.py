"""Converts a model's markdown to safe HTML.

Raw HTML is escaped, links lead to the web only, and images become links, since loading one would tell its
server who reads the answer. Line feeds stay, since models write verses and addresses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any, Literal

from nbruntime.display.html import escape, visible

Joint = Literal["block", "list", "table", "code", "line", "text"]
"""What a cut divides: nothing, a list between items, a table, a code block, a paragraph between lines or
within one."""

_FENCES = ("```", "~~~")
_ITEM = re.compile(r"(?:[-*+]|\d{1,9}[.)])[ \t]+\S")
_BARE_MARKS = re.compile(r"(?:\A|(?<=\n))(?:[-*+_=#>|`~: \t]+|[ \t]*\d{1,9}[.)][ \t]*)\Z")
_OPEN_LINK = re.compile(r"!?\[([^\[\]\n]+)\]\([^\s)]*\Z")
_OPEN_BOLD = re.compile(r"(?<![\w*\\])\*\*(?![\s*])[^*]*(\*?)\Z")
_CODE_SPAN = re.compile(r"`[^`\n]*`")


@dataclass(frozen=True, slots=True)
class Cut:
    """A place where a growing text may be cut in two pieces."""

    position: int  # characters before it
    joint: Joint = "block"
    opening: str = ""  # what the second piece repeats: the head of its table or the fence of its code


@cache
def _parser() -> Any:
    from markdown_it import MarkdownIt

    options = {"html": False, "breaks": True, "highlight": _highlighted, "xhtmlOut": True}
    parser = MarkdownIt("commonmark", options)
    parser.enable(["table", "strikethrough"])
    parser.add_render_rule("image", _image_as_link)
    parser.add_render_rule("link_open", _link_open)
    parser.validateLink = _is_web_address
    return parser


def render_markdown(text: str) -> str:
    r"""Convert untrusted markdown to well-formed HTML; too deeply nested text stays plain.

    Examples
    --------
    >>> render_markdown("*so* <script>")
    '<p><em>so</em> &lt;script&gt;</p>\n'
    """
    parser, env = _parser(), dict[str, Any]()
    tokens = parser.parse(visible(text), env)
    if any(token.nesting == 1 and token.level + 1 >= parser.options.maxNesting for token in tokens):
        return f'<div class="nbr-plain">{escape(text)}</div>\n'
    html: str = parser.renderer.render(tokens, parser.options, env)
    return visible(html)  # entities are characters now


def safe_markdown(text: str) -> str:
    """Return a text as markdown that other programs may render safely.

    It becomes one block of code if it holds HTML, an image, a link that does not lead to the web, or
    characters that change the direction of the text.

    Examples
    --------
    >>> print(safe_markdown("<script>"))
    ```text
    <script>
    ```
    """
    text = visible(text)
    if not any(mark in text for mark in ("<", "![", "](", "]:", "{=", "&")):
        return text
    if len(text) <= LONGEST_PARSED and not any(map(_is_active, _open_parser().parse(text))):
        return text
    longest = max(map(len, re.findall("`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}text\n{text}\n{fence}"


LONGEST_PARSED = 50_000
"""Length above which a text is parsed in pieces, so that the time is linear in its length."""


@cache
def _open_parser() -> Any:
    """Make a parser that finds HTML and every link, as a permissive renderer does."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": True})
    parser.enable("table")
    parser.validateLink = lambda _address: True
    return parser


def _is_active(token: Any) -> bool:
    if token.type == "text" and token.content != visible(token.content):
        return True  # an entity hides such a character
    if token.type in ("html_block", "html_inline", "image"):
        return True
    if token.type == "link_open" and not _is_web_address(token.attrGet("href") or ""):
        return True
    if token.type == "fence" and "{" in token.info:
        return True  # Pandoc takes such a block as raw HTML
    return any(map(_is_active, token.children or ()))


def cuts(text: str) -> Iterator[Cut]:
    """Yield the places before which further text cannot change the HTML; `text` starts with a block."""
    position = 0
    fence = opener = head = before = ""
    in_list = False
    lines = text.split("\n")
    for number, line in enumerate(lines):
        start, whole = position, number < len(lines) - 1
        position += len(line) + 1
        blank, indented = not line.strip(), line[:1] in (" ", "\t")
        if fence:
            fence = _fence_after(fence, line)
            if whole and (fence or not in_list):
                yield Cut(position, "code", opener) if fence else Cut(position)
            continue
        if in_list and not blank and not indented:
            if _ITEM.match(line):
                yield Cut(start, "list")
            elif not before.strip():
                in_list = False
                yield Cut(start)
        elif not in_list and not blank and _ITEM.match(line.lstrip()):
            in_list = True
        fence = _fence_after("", line)
        if fence:
            opener, head = _opener(line) + "\n", ""
            if not in_list:
                yield Cut(start)
        elif blank:
            head = ""
            if whole and not in_list:
                yield Cut(position)
        elif head:
            if whole and not in_list:
                yield Cut(position, "table", head)
        elif whole and "|" in before and _rules_table(line):
            head = f"{before}\n{line}\n"
        before = line


def open_fence(text: str) -> str:
    """Return the opening fence of a code block that is open at the end of a text, or ""."""
    line, fence = _open_at_end(text)
    return _opener(line) + "\n" if fence else ""


def with_closed_fence(text: str) -> str:
    r"""Close a code block that is open at the end of a text, so that it does not include what follows.

    Examples
    --------
    >>> with_closed_fence("```python\nx = 1")
    '```python\nx = 1\n```'
    """
    line, fence = _open_at_end(text)
    indent = line[: len(line) - len(line.lstrip())]
    return text.removesuffix("\n") + f"\n{indent}{fence}" if fence else text


def while_growing(text: str) -> str:
    """Adapt the end of growing markdown, so that it does not flicker.

    Marks at the start of a line with nothing after them are left out; open bold text and code are closed;
    an unfinished link is shown as its text.

    Examples
    --------
    >>> while_growing("This is **import")
    'This is **import**'
    """
    if open_fence(text):
        return text
    text = _OPEN_LINK.sub(r"\1", _BARE_MARKS.sub("", text)).rstrip(" ")
    block = _CODE_SPAN.sub("", text[text.rfind("\n\n") + 1 :])
    if block.count("`") % 2:
        text = text[:-1] if text.endswith("`") else text + "`"
        block = block[: block.rfind("`")] + "x"
    if block.count("**") % 2:
        if block.endswith("**"):
            return text[:-2]
        if open_bold := _OPEN_BOLD.search(block):
            return text[: len(text) - len(open_bold[1])] + "**"
    return text


def _rules_table(line: str) -> bool:
    """Return True for the line between the head and the rows of a table."""
    return "|" in line and "-" in line and not line.strip("|:- \t")


def _open_at_end(text: str) -> tuple[str, str]:
    """Return the opening line and the marker of the code block that is open at the end of a text."""
    opener = fence = ""
    for line in text.split("\n"):
        before, fence = fence, _fence_after(fence, line)
        if fence and not before:
            opener = line
    return opener, fence


def _opener(line: str) -> str:
    """Return the opening line of a code block without the indentation of a list."""
    bare = line.lstrip()
    return line if len(line) - len(bare) <= 3 else bare


def _fence_after(fence: str, line: str) -> str:
    """Return the marker of the code block that is open after a line, or ""."""
    bare = line.strip()
    if fence:
        return "" if bare.startswith(fence) and not bare.strip(fence[0]) else fence
    marker = next((each for each in _FENCES if bare.startswith(each)), "")
    if not marker:
        return ""
    opened = bare[: len(bare) - len(bare.lstrip(marker[0]))]
    return "" if marker == "```" and "`" in bare[len(opened) :] else opened


def _highlighted(code: str, language: str, _attributes: str) -> str:
    """Highlight code; unknown languages stay plain."""
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        return escape(code)
    html = ""
    # Neighbours of one class share an element: most tokens of a program have no class.
    for css_class, tokens in groupby(lexer.get_tokens(code), key=lambda token: _css_class(token[0])):
        part = escape("".join(text for _, text in tokens))
        html += f'<span class="{css_class}">{part}</span>' if css_class else part
    return html


@cache
def _css_class(token_type: Any) -> str:
    classes = _css_classes()
    return next((classes[each] for each in reversed(token_type.split()) if each in classes), "")


@cache
def _css_classes() -> dict[Any, str]:
    """Return the classes of highlighted tokens, by Pygments' own names."""
    from pygments.token import Comment, Generic, Keyword, Name, Number, Operator, String

    return {
        Keyword: "k",
        Operator.Word: "k",
        Name.Tag: "k",
        String: "s",
        Comment: "c",
        Number: "m",
        Name.Function: "nf",
        Name.Class: "nf",
        Name.Decorator: "nf",
        Name.Attribute: "nf",
        Name.Builtin: "nb",
        Generic.Deleted: "gd",
        Generic.Inserted: "gi",
        Generic.Heading: "c",
        Generic.Subheading: "c",
    }


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
