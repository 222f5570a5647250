"""The colours of all plots, light and dark, and the matplotlib style that goes with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import matplotlib
from cycler import cycler

from nbruntime.errors import ArgumentValueError
from nbruntime.profiling.trace.kinds import CLASSES

Theme = Literal["light", "dark"]
"""Theme of a plot; None stands for that of the notebook."""

STYLE_FILE = Path(__file__).with_name("nbruntime.mplstyle")


@dataclass(frozen=True, slots=True)
class Colours:
    """The colours of one theme, as hexadecimal; within a theme, no two are equal.

    The seven hues differ in lightness, too, so that they can be told apart with any colour vision.

    Parameters
    ----------
    background, ink, quiet, hairline, pale : str
        Of the page; texts and axes; captions and notes; grids; quiet surfaces such as waiting or idle time.
    blue, orange, green, red, purple, sky, grey : str
        The hues, in their order of use.
    """

    background: str
    ink: str
    quiet: str
    hairline: str
    pale: str
    blue: str
    orange: str
    green: str
    red: str
    purple: str
    sky: str
    grey: str

    @property
    def hues(self) -> tuple[str, ...]:
        """The hues for series without a meaning of their own."""
        return (self.blue, self.orange, self.green, self.red, self.purple, self.sky, self.grey)

    @property
    def prefill(self) -> str:
        """Prefill, and steps of the stage EXTEND."""
        return self.orange

    @property
    def decode(self) -> str:
        """Decode, and steps of the stage DECODE."""
        return self.blue

    @property
    def waiting(self) -> str:
        """Queued or idle time."""
        return self.pale

    @property
    def cached(self) -> str:
        """Tokens that were in the cache."""
        return self.green

    @property
    def failed(self) -> str:
        """Errors, stalls and retractions."""
        return self.red

    def of_class(self, kind: str) -> str:
        """Return the colour of a class of operators and kernels, by `Trace.classes`."""
        return dict(zip(CLASSES, self.hues, strict=True)).get(kind, self.grey)


COLOURS: dict[Theme, Colours] = {
    "light": Colours(
        background="#ffffff",
        ink="#24272b",
        quiet="#5f656d",
        hairline="#e3e5e8",
        pale="#c9cfd6",
        blue="#3a6fb0",
        orange="#d18411",
        green="#0f6a48",
        red="#b3451f",
        purple="#7d3c74",
        sky="#6ab7e3",
        grey="#8a919a",
    ),
    "dark": Colours(
        background="#121314",
        ink="#e2e4e7",
        quiet="#a3a9b1",
        hairline="#303338",
        pale="#4c525a",
        blue="#82b1ea",
        orange="#efb654",
        green="#46c08f",
        red="#e4764f",
        purple="#c9a3bf",
        sky="#c3e4f8",
        grey="#7f858d",
    ),
}


@contextmanager
def style(theme: Theme) -> Iterator[Colours]:
    """Draw in the style of a theme, whatever the style of the host's matplotlib is."""
    with matplotlib.rc_context(_parameters(theme)):
        yield COLOURS[theme]


def checked_theme(theme: Theme | None) -> Theme | None:
    """Return the theme; ArgumentValueError if there is no such theme."""
    if theme is None or theme in COLOURS:
        return theme
    raise ArgumentValueError(
        f"theme={theme!r} is not a theme of plots", hint='Give "light", "dark", or None for the notebook\'s.'
    )


@cache
def _parameters(theme: Theme) -> Any:  # a dictionary; the names are those of matplotlib
    """Return all of matplotlib's parameters that touch the picture."""
    colours = COLOURS[theme]
    parameters: dict[Any, Any] = {
        name: value for name, value in matplotlib.rcParamsDefault.items() if not name.startswith(_OF_THE_HOST)
    }
    parameters |= dict(matplotlib.rc_params_from_file(STYLE_FILE, use_default_template=False))
    parameters.update(
        {
            "axes.prop_cycle": cycler(color=colours.hues),
            "figure.facecolor": colours.background,
            "text.color": colours.ink,
            "axes.labelcolor": colours.ink,
            "axes.titlecolor": colours.ink,
            "axes.edgecolor": colours.quiet,
            "xtick.color": colours.quiet,
            "ytick.color": colours.quiet,
            "xtick.labelcolor": colours.ink,
            "ytick.labelcolor": colours.ink,
            "legend.labelcolor": colours.ink,
            "grid.color": colours.hairline,
            "lines.color": colours.blue,
            "patch.facecolor": colours.blue,
            "patch.edgecolor": colours.background,
            "boxplot.flierprops.color": colours.ink,
            "hatch.color": colours.quiet,
        }
    )
    return parameters


_OF_THE_HOST = (
    *("animation.", "backend", "date.", "docstring.", "figure.hooks", "figure.max_open", "figure.raise"),
    *("interactive", "keymap.", "macosx.", "pgf.", "ps.", "savefig.directory", "timezone", "tk.", "toolbar"),
    "webagg.",
)
"""Beginnings of parameters that do not touch the picture."""
