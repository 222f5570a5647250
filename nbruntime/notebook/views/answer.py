"""Widgets that show one growing answer."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from nbruntime.display.live_text import CARET, LiveText
from nbruntime.display.numbers import duration, token_count
from nbruntime.generation.answer_html import figures_line, foot_html, head_html
from nbruntime.generation.timings import decode_rate
from nbruntime.notebook.views.widgets import WidgetKit
from nbruntime.protocol.deltas import Delta

PAGE = 24  # HTML widgets in one box: a message that adds some lists all widgets of the box
SPARES = 4  # HTML widgets that are added at once


class AnswerView:
    """Shows one answer while it grows; `box` holds its widgets.

    One HTML widget holds the growing tail and the line of figures below it. When part of the tail settles,
    it stays there, and the rest moves to the next widget, which was created empty in advance: the text
    never waits until a front end has built a widget.

    Parameters
    ----------
    kit : WidgetKit
        Makes the widgets.
    title : str
        Heading; may be empty.
    first : bool
        True for the first answer of the view.
    markdown : bool
        True to render the text as markdown.
    text : str
        Text that was read before.
    began : float
        Time of the request, by `time.perf_counter`.
    """

    def __init__(
        self, kit: WidgetKit, *, title: str, first: bool, markdown: bool, text: str, began: float
    ) -> None:
        self._kit = kit
        self._arrived: deque[tuple[str, int]] = deque()  # filled by the thread that reads
        self._text = LiveText(markdown=markdown)
        self._text.add(text)
        self._tokens = 0
        self._began = began
        self._first: float | None = None
        self._last = began
        self._finished = False
        self._tail = kit.html(CARET)
        self._spares = [kit.html()]
        self._page = kit.box([self._tail, *self._spares])
        heads = [kit.html(head_html(title, first=first))] if title else []
        self.box = kit.box([*heads, self._page])

    def add(self, delta: Delta) -> None:
        """Queue a delta; called by the thread that reads."""
        now = time.perf_counter()
        if self._first is None:
            self._first = now
        self._last = now
        self._finished = delta.finished
        self._arrived.append((delta.text, delta.count or bool(delta.text)))

    @property
    def waiting(self) -> bool:
        """Whether no token has come yet."""
        return self._first is None

    def draw(self) -> int:
        """Send changes to the front end, and return the number of new characters; for the drawing thread."""
        finished = self._finished  # read before the queue: nothing is queued after the last delta
        new = 0
        while self._arrived:
            text, tokens = self._arrived.popleft()
            self._text.add(text)
            self._tokens += tokens
            new += len(text)
        settled = self._text.take_settled()
        tail = self._text.tail_html(growing=not finished) + foot_html("", self._figures())
        if not settled:
            self._tail.value = tail
            return new
        self._spares[0].value = tail
        self._tail.value = "".join(settled)
        self._tail = self._spares.pop(0)
        if not self._spares:
            self._spares = [self._kit.html() for _ in range(SPARES)]
            self._add_to_page(self._spares)
        return new

    def _add_to_page(self, pieces: list[Any]) -> None:
        if len(self._page.children) < PAGE:
            self._page.children = (*self._page.children, *pieces)
        else:
            self._page = self._kit.box(pieces)
            self.box.children = (*self.box.children, self._page)

    def _figures(self) -> str:
        if self._first is None:
            waited = time.perf_counter() - self._began
            return "waiting for the first token" + (f" · {waited:.0f} s" if waited >= 1 else "")
        return figures_line(
            token_count(self._tokens),
            decode_rate(self._tokens - 1, self._last - self._first),
            f"TTFT {duration(self._first - self._began)}",
        )
