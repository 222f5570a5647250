"""Curves of the share of values up to each value: empirical distribution functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray


def draw_share_curve(axes: Axes, values: NDArray[np.float64], **look: Any) -> Line2D:
    """Draw the share in percent of the sorted `values` up to each of them; one value is a dot, too."""
    shares = np.arange(len(values) + 1) / len(values) * 100
    across = np.concatenate([values[:1], values])
    (line,) = axes.plot(across, shares, drawstyle="steps-post", solid_capstyle="butt", **look)
    if len(values) == 1:
        axes.plot(values, [100], marker="o", color=line.get_color())
    return line
