"""Small charts as HTML and SVG: lines with their last value, or a strip of bars, and their scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from nbruntime.display.html import escape

WIDTH, HEIGHT = 190, 44
"""Size of the plot in pixels, without its head."""

CHART_STYLE = """
.nbr:has(>.nbr-charts){max-width:72em}
.nbr-charts{display:flex;flex-wrap:wrap;gap:.6em 3.2em;margin:.3em 0}
.nbr-chart{width:190px;font-variant-numeric:tabular-nums}
.nbr-chart-head{display:flex;justify-content:space-between;gap:1em;white-space:nowrap}
.nbr-chart svg{display:block;overflow:visible}
.nbr-key{display:inline-block;width:1em;border-top:2px solid;vertical-align:.25em;margin-right:.3em}
.nbr-accent{color:var(--nbr-accent,#3a6fb0)}[data-jp-theme-light="false"] .nbr-accent{color:#82b1ea}
.nbr-key-1{border-top-style:dotted;opacity:.75}
""".strip().replace("\n", "")
"""Goes with `nbruntime.display.cards.STYLE`."""

_STROKES = ("", ' stroke-dasharray="2 2.5" stroke-opacity=".75"')
"""Strokes of the first and the second line, different without colour, too."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart."""

    name: str  # beside the last value; empty for the only line
    points: Sequence[tuple[int, float | None]]  # steps ago, oldest first, and value; None makes a gap

    @property
    def last(self) -> float | None:
        """The last value; None if it is unknown."""
        return self.points[-1][1] if self.points else None

    @property
    def values(self) -> list[float]:
        """The known values."""
        return [value for _, value in self.points if value is not None]


def line_chart(
    label: str,
    lines: Sequence[Line],
    *,
    steps: int,
    figure: Callable[[float], str] = "{:g}".format,
    at_least: float = 1.0,
    at_most: float = math.inf,
    largest_gap: int = 3,
) -> str:
    """Draw one or two lines over time, as well-formed HTML that is readable without styling and without SVG.

    Parameters
    ----------
    label : str
        What is measured, with its unit if `figure` writes none.
    lines : sequence of Line
        At most two.
    steps : int
        Steps in the width of the chart.
    figure : callable
        Formats a value.
    at_least, at_most : float
        Bounds of the upper end of the scale, which begins at zero.
    largest_gap : int
        Most steps between two points that are joined.
    """
    known = [value for line in lines for value in line.values]
    top = min(nice_ceiling(max([at_least, *known])), max(at_most, at_least))
    paths = []
    for line, stroke in zip(lines, _STROKES, strict=False):
        path = _path(line.points, top, steps, largest_gap)
        if path:
            paths.append(
                f'<path class="nbr-accent" d="{path}" stroke="currentColor" stroke-width="1.5"'
                f' stroke-linejoin="round" stroke-linecap="round"{stroke}/>'
            )
    # Two lines have their names instead of the label.
    head = f'<span class="nbr-quiet">{escape(label)}</span>' if len(lines) == 1 else ""
    return _chart(f"{head}<span>{_figures(lines, figure)}</span>", label, known, top, figure, "".join(paths))


def strip_chart(label: str, values: Sequence[float], *, figure: Callable[[float], str]) -> str:
    """Draw a bar for each value in its order, or the largest of neighbours if they are too many.

    Parameters
    ----------
    label : str
        What is measured.
    values : sequence of float
        At least one; none is negative.
    figure : callable
        Formats a value.
    """
    top = nice_ceiling(max(values))
    columns = min(len(values), WIDTH // 2)
    step = WIDTH / columns
    bounds = [round(len(values) * column / columns) for column in range(columns + 1)]
    heights = [(HEIGHT - 2) * max(values[start:stop]) / top for start, stop in pairwise(bounds)]
    path = "".join(
        f"M{step * (column + 0.5):.1f} {HEIGHT - 0.5}V{HEIGHT - 0.5 - height:.1f}"
        for column, height in enumerate(heights)
    )
    width = min(step * 0.7, 6)
    bars = f'<path class="nbr-accent" d="{path}" stroke="currentColor" stroke-width="{width:.1f}"/>'
    return _chart(f'<span class="nbr-quiet">{escape(label)}</span>', label, values, top, figure, bars)


def _chart(
    head: str, label: str, values: Sequence[float], top: float, figure: Callable[[float], str], shapes: str
) -> str:
    """Put shapes between the lines of a scale, below a head."""
    frame = f'<path d="M0 .5H{WIDTH}M0 {HEIGHT - 0.5}H{WIDTH}" stroke="currentColor" stroke-opacity=".2"/>'
    scale = "".join(
        f'<text x="{WIDTH + 4}" y="{y}" fill="currentColor" fill-opacity=".6" font-size="9">'
        f"{escape(figure(value))}</text>"
        for y, value in ((7, top), (HEIGHT, 0.0))
    )
    description = escape(f"{label}: {_span(values, figure)}")
    return (
        f'<div class="nbr-chart"><div class="nbr-chart-head">{head}</div>'
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" fill="none" role="img"'
        f' viewBox="0 0 {WIDTH} {HEIGHT}" aria-label="{description}"><title>{description}</title>'
        f"{frame}{shapes}{scale}</svg></div>"
    )


def nice_ceiling(value: float) -> float:
    """Return the smallest 1, 2 or 5 times a power of ten that is not below `value`."""
    if not value > 0 or math.isinf(value):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    for step in (1, 2, 5, 10):
        if value <= step * power * (1 + 1e-9):
            return float(f"{step * power:.12g}")
    return 10 * power


def _figures(lines: Sequence[Line], figure: Callable[[float], str]) -> str:
    """Write the last values, with a key if there are two lines."""
    parts = []
    for number, line in enumerate(lines):
        key = f'<span class="nbr-accent nbr-key nbr-key-{number}"></span>' if len(lines) > 1 else ""
        value = "–" if line.last is None else figure(line.last)
        name = f" {escape(line.name)}" if line.name else ""
        parts.append(f"{key}<b>{escape(value)}</b>{name}")
    return " &#160; ".join(parts)


def _span(values: Sequence[float], figure: Callable[[float], str]) -> str:
    if not values:
        return "nothing known"
    return f"between {figure(min(values))} and {figure(max(values))}"


def _path(points: Sequence[tuple[int, float | None]], top: float, steps: int, largest_gap: int) -> str:
    """Write the path of a line, with gaps and without the inner points of level runs."""
    runs: list[list[tuple[float, float]]] = []
    before: int | None = None
    for place, value in points:
        if value is None or place > steps:
            before = None
            continue
        if before is None or before - place > largest_gap:
            runs.append([])
        before = place
        x = WIDTH * (1 - place / steps)
        y = 1 + (HEIGHT - 2) * (1 - min(max(value / top, 0.0), 1.0))
        run = runs[-1]
        if len(run) > 1 and run[-1][1] == run[-2][1] == y:
            run.pop()  # a level run needs only its two ends
        run.append((x, y))
    return "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in _visible_run(run)) for run in runs)


def _visible_run(run: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Lengthen a single point, so that it is drawn."""
    return run if len(run) > 1 else [*run, (run[0][0] + 0.1, run[0][1])]
