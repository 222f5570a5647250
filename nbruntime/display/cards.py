"""Cards: the text and HTML that represent the objects of nbruntime.

The HTML needs no script, widget or network, follows the theme of the host, and is legible without styling.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nbruntime.display.html import escape, visible

Tone = Literal["good", "busy", "bad", "idle"]
"""The kind of a state; it decides the dot beside the word."""

_DOTS: dict[Tone, str] = {"good": "●", "busy": "◐", "bad": "▲", "idle": "○"}

CLASSES = ("nbr", "mathjax_ignore", "tex2jax_ignore")
"""Classes of the outermost element of any output. Without the last two, JupyterLab 4 and nbconvert 7 typeset
text between two dollars as a formula (MathJax 4 and 2 have a name each)."""

STYLE = """
.nbr{font-family:inherit;font-size:var(--jp-ui-font-size1,13px);line-height:1.5;color:inherit;max-width:60em}
.nbr b{font-weight:600}
.nbr-quiet{opacity:.7}
.nbr-good{color:var(--nbr-good,#1a7f5a)}.nbr-busy{color:var(--nbr-accent,#3a6fb0)}
.nbr-bad{color:var(--nbr-bad,#b3451f)}
[data-jp-theme-light="false"] .nbr-good{color:#5cc49b}[data-jp-theme-light="false"] .nbr-busy{color:#82b1ea}
[data-jp-theme-light="false"] .nbr-bad{color:#ee9a76}
.nbr table.nbr-pairs{border-collapse:collapse;border:0;margin:.25em 0 0;font-size:inherit;background:none}
.nbr table.nbr-pairs tr,.nbr table.nbr-pairs td,.nbr table.nbr-pairs th{background:none!important;border:0;
line-height:inherit}
.nbr table.nbr-pairs td,.nbr table.nbr-pairs th{padding:0 1.2em 0 0;text-align:left;vertical-align:top;
font-variant-numeric:tabular-nums;font-weight:inherit;white-space:normal;max-width:44em}
.nbr table.nbr-pairs th{opacity:.7;white-space:nowrap}
.nbr table.nbr-grid th{border-bottom:1px solid rgba(128,128,128,.6);opacity:.8}
.nbr details{margin:.25em 0 0}.nbr summary{cursor:pointer;opacity:.7}
.nbr pre{margin:.25em 0 0;padding:0;background:none;color:inherit;white-space:pre-wrap;overflow-wrap:anywhere;
font-family:var(--jp-code-font-family,monospace);font-size:.92em;max-height:24em;overflow:auto}
.nbr code{font-family:var(--jp-code-font-family,monospace);background:none;color:inherit}
""".strip().replace("\n", "")
"""The styling of cards; each card contains it, so that its output is complete."""


@dataclass(frozen=True, slots=True)
class Details:
    """A folded part of a card: a text, a table or trusted HTML."""

    summary: str  # shown while it is folded
    text: str = ""
    rows: Sequence[Sequence[object]] = ()
    heads: bool = False  # True if the first row holds the heads of the columns
    body: str = ""  # HTML, not escaped

    def __bool__(self) -> bool:
        return bool(self.text or self.rows or self.body)


@dataclass(frozen=True, slots=True)
class Card:
    """A title line (an object, and its state in a word with a dot), pairs of label and value, folded details.

    Examples
    --------
    >>> card = Card("Runtime", "SmolLM2", "ready", "good", pairs=[("engine", "embedded"), ("pid", 42)])
    >>> print(card.text())
    Runtime SmolLM2 · ready
      engine embedded · pid 42
    """

    kind: str  # such as "Runtime"
    name: str = ""
    state: str = ""  # a word or two
    tone: Tone = "idle"
    pairs: Sequence[tuple[str, object]] = ()  # labels and values; empty values are left out
    details: Sequence[Details] = ()  # in HTML only
    body: str = ""  # HTML between title and pairs, not escaped
    plain: str = ""  # the body as plain text

    def text(self) -> str:
        """Return the card in a few lines of plain text."""
        title = " ".join(part for part in (self.kind, self.name) if part)
        lines = [" · ".join(part for part in (title, self.state) if part)]
        if self.plain:
            lines.append(self.plain)
        pairs = [f"{label} {value}" for label, value in self._pairs()]
        if pairs:
            lines.append("  " + " · ".join(pairs))
        return visible("\n".join(lines))

    def html(self) -> str:
        """Return the card with its styling as HTML, which is also well-formed XML."""
        return f'<div class="{" ".join(CLASSES)}"><style>{STYLE}</style>{self.inner_html()}</div>'

    def inner_html(self) -> str:
        """Return the card as HTML without the styling."""
        parts = [f"<div>{self._title()}</div>"]
        if self.body:
            parts.append(self.body)
        pairs = self._pairs()
        if pairs:
            parts.append(table([(label, value) for label, value in pairs], labels=True))
        parts.extend(_folded(each) for each in self.details if each)
        return "".join(parts)

    def mimebundle(
        self, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> dict[str, Any]:
        """Return the card in all forms, for ``_repr_mimebundle_``."""
        bundle = {"text/plain": self.text(), "text/html": self.html()}
        if include is not None:
            bundle = {mime: bundle[mime] for mime in bundle if mime in set(include)}
        return {mime: form for mime, form in bundle.items() if mime not in set(exclude or ())}

    def _pairs(self) -> list[tuple[str, object]]:
        return [(label, value) for label, value in self.pairs if value is not None and value != ""]

    def _title(self) -> str:
        title = f"<b>{escape(self.kind)}</b>"
        if self.name:
            title += f" {escape(self.name)}"
        if self.state:
            title += f' <span class="nbr-{self.tone}">{_DOTS[self.tone]}</span> {escape(self.state)}'
        return title


class CardMixin:
    """Gives an object the rich repr of the card that its ``_card`` makes."""

    __slots__ = ()

    def _card(self) -> Card:
        raise NotImplementedError

    def _repr_mimebundle_(
        self, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> dict[str, Any]:
        return self._card().mimebundle(include, exclude)


def table(rows: Sequence[Sequence[object]], *, labels: bool = False, heads: bool = False) -> str:
    """Return a table as HTML, its cells escaped.

    With `labels`, the first cell of a row is its label; with `heads`, the first row has the column heads.
    """
    lines = []
    for number, row in enumerate(rows):
        cells = []
        for column, cell in enumerate(row):
            tag = "th" if (heads and number == 0) or (labels and column == 0) else "td"
            cells.append(f"<{tag}>{escape(cell)}</{tag}>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    kind = "nbr-pairs nbr-grid" if heads else "nbr-pairs"
    return f'<table class="{kind}"><tbody>{"".join(lines)}</tbody></table>'


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Write a table as text, with aligned columns; all rows have the same length.

    Examples
    --------
    >>> print(text_table([("name", "state"), ("chat", "ready")]))
    name  state
    chat  ready
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _folded(details: Details) -> str:
    inner = table(details.rows, labels=not details.heads, heads=details.heads) if details.rows else ""
    inner += details.body
    if details.text:
        inner += f"<pre>{escape(details.text)}</pre>"
    return f"<details><summary>{escape(details.summary)}</summary>{inner}</details>"
