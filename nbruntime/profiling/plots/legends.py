"""Legends in one row, on the line of the title."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes


def legend_above(axes: Axes, handles: Sequence[Any] | None = None) -> None:
    """Set the legend on the right, on the line of the axes' title."""
    entries = axes.get_legend_handles_labels()[0] if handles is None else list(handles)
    if not entries:
        return
    axes.legend(
        handles=entries, loc="lower right", bbox_to_anchor=(1, 1.0), ncols=len(entries), borderaxespad=0.35
    )
