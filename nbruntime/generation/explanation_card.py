"""The card of an explanation: a bar of its parts, its sentence, and a legend with the figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nbruntime.display.cards import Card
from nbruntime.display.html import escape
from nbruntime.display.numbers import duration, percent

# An explanation imports this module to show itself, so it is not imported here, not even as a type.

_SOURCES = {
    "step log": "by the server's steps",
    "server times": "by the server's times",
    "client": "by the client's times",
}

TEXT_WIDTH = 40
"""Characters of the bar in plain text."""

# The hues of the plots for prefill, decode and stalls; mid tones, legible on a light and on a dark ground.
_COLOURS = {
    "client": "#a3a9b1",
    "server": "#c9cfd6",
    "queue": "#8a919a",
    "prefill": "#d18411",
    "turns": "#2f9068",
    "stall": "#b3451f",
    "first": "#6ab7e3",
    "all": "#6ab7e3",
    "decode": "#5b8fd4",
    "retraction": "#a8659e",
    "siblings": "#b0a060",
}

_GLYPHS = {
    "client": ".",
    "server": "-",
    "queue": "░",
    "prefill": "▒",
    "turns": "+",
    "stall": "!",
    "first": "▒",
    "all": "▒",
    "decode": "█",
    "retraction": "<",
    "siblings": "=",
}


def explanation_card(explanation: Any) -> Card:
    """Make the card of an explanation."""
    lines = [f"  {explanation.sentence}"]
    if explanation.parts:
        lines += [f"  {_text_bar(explanation)}", f"  {_text_legend(explanation)}"]
    lines += [f"  {note}" for note in explanation.notes]
    return Card(
        "Explanation",
        duration(explanation.total) if explanation.parts else "",
        _SOURCES.get(explanation.source, "nothing known"),
        body=_html(explanation),
        plain="\n".join(lines),
    )


def _text_bar(explanation: Any) -> str:
    return "".join(
        _GLYPHS[part.kind] * width
        for part, width in zip(explanation.parts, _widths(_shares(explanation), TEXT_WIDTH), strict=True)
    )


def _text_legend(explanation: Any) -> str:
    return " · ".join(
        f"{_GLYPHS[part.kind]} {part.label} {duration(part.seconds)}" for part in explanation.parts
    )


def _shares(explanation: Any) -> list[float]:
    return [explanation.share(part) for part in explanation.parts]


def _widths(shares: Sequence[float], whole: int) -> list[int]:
    """Round shares to whole characters that add up to the width of the bar."""
    widths = []
    place = covered = 0.0
    for share in shares:
        place += share * whole
        width = round(place - covered)
        covered += width
        widths.append(width)
    return widths


def _html(explanation: Any) -> str:
    sentence = f'<div style="margin:4px 0">{escape(explanation.sentence)}</div>'
    notes = "".join(f'<div class="nbr-quiet">{escape(note)}</div>' for note in explanation.notes)
    if not explanation.parts:
        return sentence + notes
    return f"{sentence}{_bar(explanation)}{_legend(explanation)}{notes}"


def _bar(explanation: Any) -> str:
    """Write the bar with styles alone that an untrusted notebook keeps."""
    pieces = "".join(
        f'<div title="{escape(_title(part, explanation))}" style="width:{100 * share:.3f}%;height:16px;'
        f'background-color:{_COLOURS[part.kind]}"></div>'
        for part, share in zip(explanation.parts, _shares(explanation), strict=True)
    )
    return f'<div style="display:flex;width:100%;height:16px;margin:4px 0">{pieces}</div>'


def _title(part: Any, explanation: Any) -> str:
    return f"{part.label}: {duration(part.seconds)}, {percent(explanation.share(part))}"


def _legend(explanation: Any) -> str:
    rows = []
    for part in explanation.parts:
        swatch = f'<span style="color:{_COLOURS[part.kind]}">&#9632;</span>'
        figures = (part.label, duration(part.seconds), percent(explanation.share(part)))
        name, took, share = (escape(figure).replace(" ", "&#160;") for figure in figures)
        cells = (f"{swatch}&#160;{name}", took, share, escape(part.detail))
        rows.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return f'<table class="nbr-pairs"><tbody>{"".join(rows)}</tbody></table>'
