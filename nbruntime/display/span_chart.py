"""A chart of time spans as SVG: a row for each thing that took time, bars for its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nbruntime.display.html import escape
from nbruntime.display.numbers import duration

WIDTH, MOST_HEIGHT = 560, 132
"""Size of the plot in pixels, without legend and scale."""

ROW_HEIGHT: Final = 11
"""Height of a row if all rows fit; never below 2."""

MOST_ROWS = MOST_HEIGHT // 2

SPAN_STYLE = """
.nbr-spans{margin:.4em 0;max-width:100%;font-variant-numeric:tabular-nums}
.nbr-spans svg{display:block;overflow:visible;max-width:100%;height:auto}
.nbr-spans .nbr-key-span{display:inline-block;width:1.4em;margin:0 .4em 0 0;vertical-align:.15em}
.nbr-warm{color:#d18411}[data-jp-theme-light="false"] .nbr-warm{color:#efb654}
.nbr-accent{color:var(--nbr-accent,#3a6fb0)}[data-jp-theme-light="false"] .nbr-accent{color:#82b1ea}
""".strip().replace("\n", "")
"""Goes with `nbruntime.display.cards.STYLE`."""


@dataclass(frozen=True, slots=True)
class SpanKind:
    """How spans of a kind look: different in height, so that no colour is needed to tell them apart."""

    name: str  # in the legend
    height: float  # part of the row's height, from 0 to 1
    opacity: float = 1.0
    tone: str = "accent"  # "accent", "warm" or "bad"; "text" for the colour of the text


@dataclass(frozen=True, slots=True)
class Span:
    """A time, and its kind."""

    start: float
    end: float
    kind: SpanKind


def span_chart(label: str, rows: Sequence[Sequence[Span]], *, order: Sequence[SpanKind] = ()) -> str:
    """Draw rows of spans on one time scale, as well-formed HTML; empty without spans.

    Of more than `MOST_ROWS` rows, evenly chosen ones are drawn, and the legend says so.

    Parameters
    ----------
    label : str
        What the rows are, in the plural, such as "requests".
    rows : sequence of sequences of Span
        From top to bottom; times in seconds, on any clock.
    order : sequence of SpanKind
        Kinds in the order of the legend; others follow.
    """
    spans = [span for row in rows for span in row]
    if not spans:
        return ""
    begin, end = min(span.start for span in spans), max(span.end for span in spans)
    every = -(-len(rows) // MOST_ROWS)
    shown = rows[::every]
    height = max(min(ROW_HEIGHT, MOST_HEIGHT // len(shown)), 2)
    scale = WIDTH / ((end - begin) or 1.0)
    found = dict.fromkeys(span.kind for span in spans)
    kinds = list(dict.fromkeys([*(kind for kind in order if kind in found), *found]))
    paths = "".join(_path(kind, shown, begin, scale, height) for kind in kinds)
    total = height * len(shown)
    size = f'width="{WIDTH}" height="{total + 14}" viewBox="0 0 {WIDTH} {total + 14}"'
    counted = label.removesuffix("s") if len(rows) == 1 else label
    scale_text = escape(f"{len(rows):,} {counted} in {duration(end - begin)}")
    said = f"every {_ordinal(every)} of {len(rows):,} {label}" if every > 1 else ""
    return (
        f'<div class="nbr-spans">{_legend(kinds, said)}'
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} fill="none" role="img"'
        f' aria-label="{scale_text}">'
        f'{paths}<path d="M0 {total + 1.5}H{WIDTH}" stroke="currentColor" stroke-opacity=".3"/>'
        # An untrusted notebook drops the SVG and keeps its one text.
        f'<text x="{WIDTH}" y="{total + 12}" text-anchor="end" fill="currentColor" fill-opacity=".6"'
        f' font-size="9">{scale_text}</text></svg></div>'
    )


def _path(kind: SpanKind, rows: Sequence[Sequence[Span]], begin: float, scale: float, height: float) -> str:
    """Draw all spans of a kind as one path, at least half a pixel wide each."""
    moves = []
    for number, row in enumerate(rows):
        y = height * (number + 0.5)
        for span in row:
            if span.kind == kind:
                left, right = (span.start - begin) * scale, (span.end - begin) * scale
                moves.append(f"M{left:.1f} {y:g}H{max(right, left + 0.5):.1f}")
    if not moves:
        return ""
    width = max(kind.height * height * 0.85, 0.8)
    opacity = f' stroke-opacity="{kind.opacity:g}"' if kind.opacity < 1 else ""
    return (
        f'<path class="nbr-{kind.tone}" d="{"".join(moves)}" stroke="currentColor"'
        f' stroke-width="{width:.1f}"{opacity}/>'
    )


def _legend(kinds: Sequence[SpanKind], said: str) -> str:
    keys = [
        f'<span class="nbr-{kind.tone} nbr-key-span" style="opacity:{kind.opacity:g};'
        f'border-top:{max(kind.height * 9, 1.5):.1f}px solid"></span>{escape(kind.name)}'
        for kind in kinds
    ]
    return f'<div class="nbr-quiet">{" &#160; ".join([*keys, escape(said)] if said else keys)}</div>'


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
