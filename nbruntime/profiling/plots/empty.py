"""Pictures of nothing: words in place of empty axes."""

from __future__ import annotations

from nbruntime.profiling.plots.axes import no_data
from nbruntime.profiling.plots.colours import Theme
from nbruntime.profiling.plots.figure import Figure, new_figure

NO_REQUESTS = "No requests were noted."


def empty_figure(theme: Theme | None, *, title: str, words: str, caption: str) -> Figure:
    """Return a low figure with a title, and words that say why there is nothing else."""
    with new_figure(theme, caption=caption, height=1.2) as figure:
        axes = figure.subplots()
        axes.set_title(title)
        no_data(axes, words, figure.colours)
    figure.figures.append(words)
    return figure
