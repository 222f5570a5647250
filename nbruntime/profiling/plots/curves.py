"""Curves of several plots: levels that hold until the next point, and shares of values."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from nbruntime.profiling.plots.intervals import Floats

MOST = 360
"""Of more points, the mean of each of so many columns is drawn."""


def reduced(times: Floats, values: Floats, most: int = MOST) -> tuple[Floats, Floats]:
    """Return at most `most` points and the last one: the mean over time of each column.

    Examples
    --------
    >>> times, values = reduced(np.array([0.0, 1.0, 2.0, 4.0]), np.array([8.0, 4.0, 2.0, 0.0]), most=2)
    >>> times.tolist(), values.tolist()
    ([0.0, 2.0, 4.0], [6.0, 2.0, 0.0])
    """
    if len(times) <= most or times[-1] <= times[0]:
        return times, values
    area = np.concatenate([[0.0], np.cumsum(values[:-1] * np.diff(times))])
    edges = np.linspace(times[0], times[-1], most + 1)
    means = np.diff(np.interp(edges, times, area)) / np.diff(edges)
    return edges, np.append(means, values[-1])


def draw_level(axes: Axes, times: Floats, values: Floats, colour: str, label: str = "") -> None:
    """Draw a level, such as the number of running requests, as a pale surface below a thin line."""
    times, values = reduced(times, values)
    axes.fill_between(times, values, step="post", color=colour, alpha=0.25, linewidth=0, label=label)
    axes.step(times, values, where="post", color=colour, linewidth=1)


def draw_share_curve(axes: Axes, values: Floats, **look: Any) -> Line2D:
    """Draw the share in percent of the sorted `values` up to each of them; one value is a dot, too."""
    shares = np.arange(len(values) + 1) / len(values) * 100
    across = np.concatenate([values[:1], values])
    (line,) = axes.plot(across, shares, drawstyle="steps-post", solid_capstyle="butt", **look)
    if len(values) == 1:
        axes.plot(values, [100], marker="o", color=line.get_color())
    return line
