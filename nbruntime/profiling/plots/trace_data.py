"""What the plots of traces share."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from nbruntime.display.html import visible
from nbruntime.profiling.plots.colours import Colours
from nbruntime.profiling.trace.kinds import CLASSES

NO_TRACE = (
    "No trace.\nProfile with trace=True; where the trace lies on another machine, copy it "
    "and call profile.load_trace(path)."
)

LONGEST_NAME = 44


def short_name(name: str) -> str:
    """Shorten the name of an operator or kernel in its middle: its end tells it from its relatives.

    Examples
    --------
    >>> short_name("void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>>(int)")
    'at::native::vectorized_eleme…tor<float>>(int)'
    """
    name = visible(" ".join(name.split())).removeprefix("void ")
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:28]}…{name[-(LONGEST_NAME - 28) :]}"


def class_legend(axes: Axes, kinds: set[str], colours: Colours) -> None:
    """Put a legend of the classes between the axes and their title, in two full lines if they are many."""
    keys = [Patch(color=colours.of_class(kind), label=kind) for kind in CLASSES if kind in kinds]
    lines = 1 if len(keys) <= 4 else 2
    axes.legend(handles=keys, loc="lower left", bbox_to_anchor=(0, 1), ncols=-(-len(keys) // lines))
    axes.set_title(axes.get_title("left"), pad=8 + 16 * lines)
