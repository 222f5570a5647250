"""A growing text, split into pieces that are drawn once and a tail that is drawn again and again."""

from __future__ import annotations

from nbruntime.markup import escape
from nbruntime.notebook.markdown import open_fence, render_markdown, settled_length

TAIL_CHARACTERS = 500
"""From this length on the growing part is settled at the next place that allows it."""

TAIL_CODE = 300
"""The same within a code block: a line of code is settled at its end, and coloured it has many more bytes."""

LONGEST_TAIL = 1600
"""At this length it is cut where a line, a sentence or a word ends."""


class LiveText:
    """Splits a growing text, so that the bytes of a draw do not grow with it.

    Parameters
    ----------
    markdown : bool
        Whether the text is markdown; otherwise it is shown as it is.

    Attributes
    ----------
    tail : str
        The part that is still growing.

    Examples
    --------
    >>> live = LiveText(markdown=False)
    >>> live.add("Hello")
    >>> live.take_settled(), live.tail_html()
    ([], '<div class="nbr-text nbr-plain">Hello</div>')
    """

    def __init__(self, *, markdown: bool = True) -> None:
        self.markdown = markdown
        self.tail = ""
        self._fence = ""  # the line that opened the code block in which the text was cut

    def add(self, text: str) -> None:
        """Add what is new."""
        self.tail += text

    def take_settled(self) -> list[str]:
        """Give the HTML of what needs no further draw; the rest stays as the tail."""
        settled: list[str] = []
        while length := self._settled_length():
            piece, self.tail = self.tail[:length], self.tail[length:]
            fence = open_fence(self._fence + piece) if self.markdown else ""
            settled.append(self._html(piece, ends_in_code=bool(fence)))
            self._fence = fence
        return settled

    def tail_html(self) -> str:
        """Give the HTML of the growing part."""
        return self._html(self.tail)

    def _settled_length(self) -> int:
        """Tell how much of the tail to settle now."""
        if len(self.tail) <= TAIL_CODE:
            return 0
        if self.markdown and (fence := open_fence(self._fence + self.tail)):
            # Up to the last line that is whole, but not so far as to cut between a fence and its code.
            line = self.tail.rfind("\n") + 1
            inside = self._fence or line > self.tail.find(fence) + len(fence)
            if line and inside:
                return line
        if len(self.tail) <= TAIL_CHARACTERS:
            return 0
        length = settled_length(self._fence + self.tail) - len(self._fence) if self.markdown else 0
        if length > 0:
            return length
        return _cut(self.tail) if len(self.tail) > LONGEST_TAIL else 0

    def _html(self, text: str, *, ends_in_code: bool = False) -> str:
        html = text_html(self._fence + text, markdown=self.markdown)
        # A block that goes on in the next piece is drawn without a seam.
        seams = (" nbr-from-code" if self._fence else "") + (" nbr-into-code" if ends_in_code else "")
        return html.replace('class="nbr-text', f'class="nbr-text{seams}', 1) if seams else html


def text_html(text: str, *, markdown: bool) -> str:
    """Give a whole text as HTML, the way that `LiveText` shows its pieces."""
    if markdown:
        return f'<div class="nbr-text">{render_markdown(text)}</div>'
    return f'<div class="nbr-text nbr-plain">{escape(text)}</div>'


def _cut(text: str) -> int:
    """Find the last end of a line, or else of a sentence or a word."""
    for end in ("\n", ". ", " "):
        at = text.rfind(end, LONGEST_TAIL // 2, LONGEST_TAIL)
        if at >= 0:
            return at + len(end)
    return LONGEST_TAIL
