"""Splits a growing text into pieces that are drawn once and a tail that is drawn again."""

from __future__ import annotations

import re

from nbruntime.display.html import escape
from nbruntime.display.markdown import (
    LONGEST_PARSED,
    Cut,
    cuts,
    open_fence,
    render_markdown,
    while_growing,
)

# Lengths in characters at which a growing text is cut:
TAIL_CODE = 600  # a code block, at its last line; highlighted code has many more bytes
TAIL_CHARACTERS = 800  # a text, at the end of its last block
LONGEST_TAIL = 1600  # a block, at the end of a line, a sentence or a word
LONGEST_TABLE = 4000  # a table; its pieces do not line up
LONGEST_DRAW = 12_000  # more that arrives at once is not drawn while the text grows

CARET = '<span class="nbr-caret"></span>'

_CODE_END = "</code></pre>"
_CLOSING_TAG = re.compile(r"</\w+>\Z")


class LiveText:
    """Splits a growing text, markdown or plain, so that the bytes of a draw do not grow with it.

    Examples
    --------
    >>> live = LiveText(markdown=False)
    >>> live.add("Hello")
    >>> live.take_settled(), live.tail_html()
    ([], '<div class="nbr-text nbr-plain">Hello</div>')
    """

    def __init__(self, *, markdown: bool = True) -> None:
        self.markdown = markdown
        self.tail = ""  # the part that is still growing
        self._start = Cut(0)  # how the tail continues the last settled piece

    def add(self, text: str) -> None:
        """Add new text."""
        self.tail += text

    def take_settled(self, *, all_of_it: bool = False) -> list[str]:
        """Return the HTML of the final pieces, and keep the rest as the tail.

        Only the end of a text that is too long to draw at once is drawn, unless `all_of_it`.
        """
        settled: list[str] = []
        if len(self.tail) > LONGEST_DRAW and not all_of_it:
            settled.append(self._leave_out())
        while cut := self._next_cut():
            piece, self.tail = self.tail[: cut.position], self.tail[cut.position :]
            settled.append(self._html(piece, cut))
            self._start = cut
        return settled

    def tail_html(self, *, growing: bool = False) -> str:
        """Return the HTML of the tail, with a caret at its end if the text is still growing."""
        text = self.tail
        if growing and self.markdown:
            opening = self._start.opening
            text = while_growing(opening + text)[len(opening) :]
        html = self._html(text)
        if growing and not text.endswith("\n"):
            html = _CODE_END.join(html.rsplit("\n" + _CODE_END, 1))  # the line continues
        return with_caret(html) if growing else html

    def _next_cut(self) -> Cut | None:
        """Return the place to cut the tail now, if any."""
        length = len(self.tail)
        if length <= TAIL_CODE:
            return None
        best, in_table = None, False
        if self.markdown:
            opening = self._start.opening
            for cut in cuts(opening + self.tail):
                position = cut.position - len(opening)
                in_table = cut.joint == "table"
                if position > 0 and length > _CUT_LENGTHS.get(cut.joint, TAIL_CHARACTERS):
                    best = Cut(position, cut.joint, cut.opening)
        if best is None and length > (LONGEST_TABLE if in_table else LONGEST_TAIL):
            return self._cut_within_block()
        return best

    def _cut_within_block(self) -> Cut:
        """Return the place of the last line end in the tail, or else of a sentence or a word."""
        position, line = LONGEST_TAIL, False
        for end in ("\n", ". ", " "):
            at = self.tail.rfind(end, LONGEST_TAIL // 2, LONGEST_TAIL)
            if at >= 0:
                position, line = at + len(end), end == "\n"
                break
        fence = open_fence(self._start.opening + self.tail[:position]) if self.markdown else ""
        return Cut(position, "code", fence) if fence else Cut(position, "line" if line else "text")

    def _leave_out(self) -> str:
        """Drop all but the end of a tail that is too long to draw."""
        left_out = self._start.opening + self.tail[:-LONGEST_TAIL]
        count = len(self.tail) - LONGEST_TAIL
        self.tail = self.tail[-LONGEST_TAIL:]
        fence = open_fence(left_out) if self.markdown else ""
        self._start = Cut(0, "code", fence) if fence else Cut(0)
        return f'<div class="nbr-quiet">[{count:,} characters came at once; they are shown at the end]</div>'

    def _html(self, text: str, end: Cut | None = None) -> str:
        html = text_html(self._start.opening + text, markdown=self.markdown, in_pieces=False)
        # A block that continues in the next piece is drawn without a gap.
        seams = [] if self._start.joint == "block" else [f" nbr-from-{self._start.joint}"]
        seams += [] if end is None or end.joint == "block" else [f" nbr-into-{end.joint}"]
        return html.replace('class="nbr-text', f'class="nbr-text{"".join(seams)}', 1) if seams else html


_CUT_LENGTHS = {"code": TAIL_CODE, "table": LONGEST_TABLE}


def text_html(text: str, *, markdown: bool, in_pieces: bool = True) -> str:
    """Return the HTML of a whole text; a long one is parsed `in_pieces`, in time linear in its length."""
    if not markdown:
        return f'<div class="nbr-text nbr-plain">{escape(text)}</div>'
    if in_pieces and len(text) > LONGEST_PARSED:
        return f'<div class="nbr-pieces">{"".join(_pieces(text))}</div>'
    return f'<div class="nbr-text">{render_markdown(text)}</div>'


def with_caret(html: str) -> str:
    """Insert the caret after the last character of HTML, inside the elements that end there.

    Examples
    --------
    >>> with_caret("<p>So <b>far</b></p>")
    '<p>So <b>far<span class="nbr-caret"></span></b></p>'
    """
    at = len(html)
    while tag := _CLOSING_TAG.search(html, html.rfind("<", 0, at), at):
        at = tag.start()
        before = len(html[:at].rstrip())
        if html.endswith(">", 0, before) and html.startswith("</", html.rfind("<", 0, before)):
            at = before
    return html[:at] + CARET + html[at:]


def _pieces(text: str) -> list[str]:
    live, pieces = LiveText(), []
    for start in range(0, len(text), LONGEST_TAIL):
        live.add(text[start : start + LONGEST_TAIL])
        pieces += live.take_settled(all_of_it=True)
    return [*pieces, live.tail_html()]
