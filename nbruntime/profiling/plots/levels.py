"""Levels that hold until the next point, such as the number of running requests."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

Floats = NDArray[np.float64]

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
    """Draw a level as a pale surface below a thin line."""
    times, values = reduced(times, values)
    axes.fill_between(times, values, step="post", color=colour, alpha=0.25, linewidth=0, label=label)
    axes.step(times, values, where="post", color=colour, linewidth=1)
