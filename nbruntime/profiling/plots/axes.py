"""Parts of several plots: axes of time and counts, legends, names of quantiles, words in place of data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import AutoLocator, Formatter, LogLocator, MaxNLocator, NullFormatter

from nbruntime.display.numbers import duration
from nbruntime.profiling.plots.colours import Colours

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
"""In seconds, and their names."""

_LONG_UNITS = ((3600.0, "h"), (60.0, "min"))
"""Units of axes that are at least `_FEWEST` of them long."""

_FEWEST = 5


class TimeFormatter(Formatter):
    """Writes seconds in a unit, with thousands set apart.

    Examples
    --------
    >>> TimeFormatter(1e-3)(0.0125), TimeFormatter(1.0)(1500)
    ('12.5', '1,500')
    """

    def __init__(self, unit: float) -> None:
        self.unit = unit  # in seconds

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Return the words of a tick."""
        value = float(f"{x / self.unit:.6g}")
        return f"{value:,.0f}" if value == int(value) else f"{value:,g}"


class TimeWithUnitFormatter(Formatter):
    """Writes seconds each in its unit, for axes over several powers of ten.

    Examples
    --------
    >>> TimeWithUnitFormatter()(0.00005), TimeWithUnitFormatter()(0.02), TimeWithUnitFormatter()(10)
    ('50 µs', '20 ms', '10 s')
    """

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Return the words of a tick."""
        unit, name = _unit(x)
        return f"{TimeFormatter(unit)(x)} {name}"


class CountFormatter(Formatter):
    """Writes counts with thousands set apart, such as 12,000."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Return the words of a tick."""
        return TimeFormatter(1.0)(x)


def time_axis(axis: Axis, label: str, longest: float, *, log: bool = False) -> None:
    """Label an axis whose data are seconds, in the unit that fits: h, min, s, ms or µs.

    Parameters
    ----------
    axis : matplotlib.axis.Axis
        Such as ``axes.xaxis``.
    label : str
        What is measured, without a unit.
    longest : float
        The longest time in seconds; it decides the unit.
    log : bool
        Make the axis logarithmic; each tick has its unit.
    """
    if log:
        _set(axis, label, TimeWithUnitFormatter(), log)
    else:
        unit, name = next((long for long in _LONG_UNITS if longest >= _FEWEST * long[0]), _unit(longest))
        _set(axis, f"{label} ({name})", TimeFormatter(unit), log)
        axis.set_major_locator(_UnitLocator(unit))


def count_axis(axis: Axis, label: str, *, log: bool = False, whole: bool = False) -> None:
    """Label an axis of counts or rates, whose unit is in the label; `whole` numbers have no ticks between."""
    _set(axis, label, CountFormatter(), log)
    if whole:
        axis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))


def no_data(axes: Axes, words: str, colours: Colours) -> None:
    """Write into empty axes why they are empty, and what would fill them."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.text(
        0.5, 0.5, words, transform=axes.transAxes, color=colours.quiet, ha="center", va="center", wrap=True
    )


def beside_bar(axes: Axes, length: float, row: float, words: str, colours: Colours) -> None:
    """Write words at the end of a horizontal bar."""
    axes.annotate(
        words,
        (length, row),
        (5, 0),
        "data",
        "offset points",
        va="center",
        fontsize=9,
        color=colours.quiet,
    )


def quantile_name(share: float) -> str:
    """Name a quantile.

    Examples
    --------
    >>> quantile_name(0.5), quantile_name(0.9), quantile_name(0.999)
    ('median', 'p90', 'p99.9')
    """
    return "median" if share == 0.5 else f"p{share * 100:g}"


def supported_quantiles(count: int) -> list[float]:
    """Return the quantiles beyond which at least one of `count` values lies.

    Examples
    --------
    >>> supported_quantiles(1), supported_quantiles(20), supported_quantiles(500)
    ([0.5], [0.5, 0.9], [0.5, 0.9, 0.99])
    """
    return [share for share, least in ((0.5, 1), (0.9, 10), (0.99, 100)) if count >= least]


def quantiles_in_words(quantiles: Mapping[str, float]) -> str:
    """Return quantiles in seconds as words.

    Examples
    --------
    >>> quantiles_in_words({"median": 0.1, "p90": 0.25})
    'median 100 ms · p90 250 ms'
    """
    return " · ".join(f"{name} {duration(seconds)}" for name, seconds in quantiles.items())


def legend_above(axes: Axes, handles: Sequence[Any] | None = None) -> None:
    """Set the legend on the right, on the line of the axes' title."""
    entries = axes.get_legend_handles_labels()[0] if handles is None else list(handles)
    if not entries:
        return
    axes.legend(
        handles=entries, loc="lower right", bbox_to_anchor=(1, 1.0), ncols=len(entries), borderaxespad=0.35
    )


class _UnitLocator(AutoLocator):
    """Places ticks at round numbers of a unit."""

    def __init__(self, unit: float) -> None:
        super().__init__()
        self._unit = unit  # in seconds

    def tick_values(self, vmin: float, vmax: float) -> Any:
        return np.asarray(super().tick_values(vmin / self._unit, vmax / self._unit)) * self._unit


class _PlainLogLocator(LogLocator):
    """Places ticks at powers of ten, and at 2 and 5 times them while there is room."""

    def tick_values(self, vmin: float, vmax: float) -> Any:
        low, high = sorted((vmin, vmax))
        self.set_params(subs=(1, 2, 5) if low > 0 and high / low < 1000 else (1,))
        return super().tick_values(vmin, vmax)


def _unit(longest: float) -> tuple[float, str]:
    """Return the unit in which a time has at least one digit before the point."""
    if longest <= 0:
        return _UNITS[0]
    return next((unit for unit in _UNITS if longest >= unit[0]), _UNITS[-1])


def _set(axis: Axis, label: str, formatter: Formatter, log: bool) -> None:
    axis.set_label_text(label)
    if log:
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})  # type: ignore[attr-defined]
        axis.set_major_locator(_PlainLogLocator())
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(formatter)
