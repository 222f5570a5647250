"""`Figure`: a plot that shows itself in a cell, in the light or dark theme of the notebook."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray
from PIL import Image

from nbruntime.display.html import escape, visible
from nbruntime.profiling.plots.colours import COLOURS, Colours, Theme, checked_theme, style
from nbruntime.profiling.plots.recolour import RecolouringCanvas

WIDTH = 9.0
"""Inches; at 100 dots per inch, the width of a notebook."""

PICTURE_DPI = 160
"""Dots per inch of pictures in cells, for screens with more dots than pixels."""

DARK = (
    ':is([data-jp-theme-light="false"],body.vscode-dark,html[theme=dark],'
    "body.vscode-high-contrast:not(.vscode-high-contrast-light))"
)
"""CSS selector of dark pages: of JupyterLab, Notebook 7 and nbconvert, of VS Code, of Colab."""

_SYSTEM = ("screen and (prefers-color-scheme:dark)", "body")
_CAPTION = FontProperties(family="DejaVu Sans", size=9)
_MARGIN = 0.1  # inches around the caption
_LINE = 9 * 1.45 / 72  # inches


class Figure(MatplotlibFigure):
    """A figure of matplotlib that shows itself in a cell, without pyplot.

    Without a theme, the page shows it in its own: it holds a light and a dark picture.

    Parameters
    ----------
    theme : str or None
        ``"light"``, ``"dark"``, or None for the theme of the notebook.
    caption : str
        What is shown and how it is defined; it stands below the axes.
    """

    caption: str
    figures: list[str]  # the main figures in words, for the plain text

    def __init__(self, *args: Any, theme: Theme | None = None, caption: str = "", **options: Any) -> None:
        self.theme = checked_theme(theme)
        self.caption = caption
        self.figures = []
        super().__init__(*args, **options)

    @property
    def drawn_theme(self) -> Theme:
        """The theme of its own colours; without one they are light."""
        return self.theme or "light"

    @property
    def colours(self) -> Colours:
        """The colours that it is drawn in."""
        return COLOURS[self.drawn_theme]

    def description(self) -> str:
        """Return the caption and the main figures in plain text."""
        return visible("\n".join([self.caption, *(f"  {each}" for each in self.figures)]))

    def __repr__(self) -> str:
        return self.description() or super().__repr__()

    __str__ = __repr__

    def draw(self, renderer: Any) -> None:
        """Draw it; matplotlib makes ticks only now, which follow the style."""
        with style(self.drawn_theme):
            super().draw(renderer)

    def savefig(self, fname: Any, **options: Any) -> None:
        """Write it to a file, as matplotlib's ``savefig`` does."""
        with style(self.drawn_theme):
            super().savefig(fname, **options)

    def png(self, theme: Theme | None = None, *, transparent: bool = False) -> bytes:
        """Return it as PNG, in the given theme or its own."""
        return _png(self._pixels(theme or self.drawn_theme, transparent=transparent))

    def _pixels(self, theme: Theme, *, transparent: bool = False) -> NDArray[np.uint8]:
        """Draw it once, which matplotlib's ``savefig`` does twice; returns RGBA."""
        own_canvas, dpi, page = self.canvas, self.dpi, self.get_facecolor()
        try:
            self.dpi = PICTURE_DPI
            if transparent:
                self.set_facecolor("none")
            # A canvas makes itself the figure's.
            canvas: FigureCanvasAgg
            if theme == self.drawn_theme:
                canvas = FigureCanvasAgg(self)
            else:
                canvas = RecolouringCanvas(self)
                canvas.themes = (self.drawn_theme, theme)
            canvas.draw()  # type: ignore[no-untyped-call]
            return np.array(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
        finally:
            self.set_canvas(own_canvas)
            self.dpi = dpi
            self.set_facecolor(page)

    def html(self, *, page: Literal["notebook", "system"] = "notebook") -> str:
        """Return it as HTML without script, in the theme of the page that it stands in.

        Parameters
        ----------
        page : str
            What decides if the page is dark: the ``"notebook"``, or the ``"system"``, as for a page of its
            own. Where styles are dropped, it is light.
        """
        light = self.png(self.theme or "light")
        name = f"nbr-figure-{hashlib.blake2s(light, digest_size=6).hexdigest()}"
        picture = (
            f'<img src="data:image/png;base64,{_base64(light)}" width="{self._width}"'
            f' alt="{escape(self.description())}" style="max-width:100%;height:auto"/>'
        )
        if self.theme:
            return f'<div class="nbr-figure">{picture}</div>'
        # The dark picture lies behind the light one, by the style: where styles are dropped, it is gone.
        layout = self.get_layout_engine()
        try:
            self.set_layout_engine("none")  # that of the light picture stays, and needs no second computation
            dark = _base64(self.png("dark", transparent=True))
        finally:
            self.set_layout_engine(layout)
        media, pages = ("not print", DARK) if page == "notebook" else _SYSTEM
        rules = (
            f".{name}{{display:inline-block}}.{name} img{{display:block}}@media {media}{{"
            f"{pages} .{name}{{background:url(data:image/png;base64,{dark}) 0 0/100% 100% no-repeat}}"
            f"{pages} .{name} img{{opacity:0}}}}"
        )
        return f'<div class="nbr-figure {name}"><style>{rules}</style>{picture}</div>'

    @property
    def _width(self) -> int:
        """Width on the page, in its pixels."""
        return round(self.get_figwidth() * 100)

    def _repr_mimebundle_(
        self, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> Any:
        if self.theme:
            size = {"width": self._width}
            return {"text/plain": self.description(), "image/png": _base64(self.png())}, {"image/png": size}
        return {"text/plain": self.description(), "text/html": self.html()}


@contextmanager
def new_figure(theme: Theme | None = None, *, caption: str, height: float = 3.4) -> Iterator[Figure]:
    """Give an empty figure to draw into, in its style.

    Parameters
    ----------
    theme : str or None
        ``"light"``, ``"dark"``, or None for the theme of the notebook.
    caption : str
        What is shown and how it is defined; a few sentences, set below the axes.
    height : float
        Inches, without the caption.

    Examples
    --------
    >>> with new_figure(caption="Squares.") as figure:
    ...     axes = figure.subplots()
    ...     _ = axes.plot([1, 4, 9], color=figure.colours.blue)
    >>> figure.figures.append("the largest is 9")
    >>> figure
    Squares.
      the largest is 9
    """
    lines = _wrapped(caption, (WIDTH - 2 * _MARGIN) * 72 * 0.97)  # some screens set it a little wider
    below = len(lines) * _LINE + _MARGIN
    with style(checked_theme(theme) or "light"):
        # The inline backend of Jupyter would show the only picture of a theme with fewer dots.
        dpi = PICTURE_DPI if theme else 100
        figure = Figure((WIDTH, height + below), dpi, theme=theme, caption=caption)
        share = below / (height + below)
        figure.set_layout_engine("constrained", rect=(0, share, 1, 1 - share))
        figure.text(
            _MARGIN / WIDTH,
            share - 0.02 / (height + below),
            "\n".join(lines),
            color=figure.colours.quiet,
            fontproperties=_CAPTION,
            verticalalignment="top",
            linespacing=1.3,
        )
        yield figure


def _wrapped(text: str, width: float) -> list[str]:
    """Break a text into lines of at most `width` points."""
    lines = [""]
    for word in visible(text).split():
        longer = f"{lines[-1]} {word}".strip()
        needed, _, _ = text_to_path.get_text_width_height_descent(longer, _CAPTION, ismath=False)
        if needed > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """Return a picture with 128 colours, which takes a third of the bytes."""
    picture = Image.fromarray(pixels)
    if (pixels[..., 3] == 255).all():
        picture = picture.convert("RGB")
    few = picture.quantize(128, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    few.save(buffer, "png", compress_level=6)  # the highest one saves a tenth in ten times the time
    return buffer.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
