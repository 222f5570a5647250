"""`plot_kernel_classes`: the time by class of kernels, in prefill and in decode."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes

from nbruntime.display.numbers import duration, percent
from nbruntime.profiling.plots.axes import beside_bar, time_axis
from nbruntime.profiling.plots.colours import Theme
from nbruntime.profiling.plots.empty import empty_figure
from nbruntime.profiling.plots.figure import Figure, new_figure
from nbruntime.profiling.plots.step_table import PREFILL
from nbruntime.profiling.plots.trace_data import NO_TRACE
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.trace.kinds import CLASSES
from nbruntime.profiling.trace.trace import Trace

SMALLEST = 0.005
"""Share of the time outside of steps that is worth a panel."""


def plot_kernel_classes(data: ProfileData, *, theme: Theme | None = None) -> Figure:
    """Draw the time of kernels by class, for each stage of the steps; without a GPU that of operators.

    Parameters
    ----------
    data : ProfileData
        A profile with a trace.
    theme : str or None
        ``"light"``, ``"dark"``, or None for the theme of the notebook.

    Examples
    --------
    >>> plot_kernel_classes(ProfileData()).caption
    "Time by class of kernels, from the trace of the server's profiler."
    """
    panels = panels_of(data.trace) if data.trace is not None else {}
    if data.trace is None or not panels:
        words = NO_TRACE if data.trace is None else "The trace has no operator and no kernel."
        caption = "Time by class of kernels, from the trace of the server's profiler."
        return empty_figure(theme, title="Time by class", words=words, caption=caption)
    what = "operators on the CPU, without those called inside"
    if data.trace.on_gpu:
        what = "kernels on the device, each in the step that launched it"
    caption = (
        f"Time of {what}; all ranks and threads together. The class follows from the name. "
        "Share: of the time of the panel."
    )
    kinds = [kind for kind in CLASSES if any(seconds[kind] for seconds in panels.values())]
    with new_figure(theme, caption=caption, height=0.3 * len(kinds) + 1) as figure:
        axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        longest = max(max(seconds.values()) for seconds in panels.values())
        for one, (title, seconds) in zip(axes, panels.items(), strict=True):
            _bars(one, title, seconds, kinds, longest, figure)
    return figure


def panels_of(trace: Trace) -> dict[str, dict[str, float]]:
    """Return the seconds of each class, by title of a panel."""
    panels: dict[str, dict[str, float]] = {}
    for stage, seconds in trace.classes_by_stage().items():
        title = "Outside of steps" if not stage else "Prefill steps" if stage in PREFILL else "Decode steps"
        panel = panels.setdefault(title, dict.fromkeys(CLASSES, 0.0))
        for kind, time in seconds.items():
            panel[kind] += time
    if list(panels) == ["Outside of steps"]:
        return {"All": panels["Outside of steps"]}
    whole = sum(sum(panel.values()) for panel in panels.values())
    return {
        title: panels[title]
        for title in ("Prefill steps", "Decode steps", "Outside of steps")
        if title in panels and (title != "Outside of steps" or sum(panels[title].values()) > SMALLEST * whole)
    }


def _bars(
    axes: Axes, title: str, seconds: Mapping[str, float], kinds: list[str], longest: float, figure: Figure
) -> None:
    colours = figure.colours
    whole = sum(seconds.values())
    colour_of = map(colours.of_class, kinds)
    axes.barh(range(len(kinds)), [seconds[kind] for kind in kinds], 0.66, color=list(colour_of))
    for place, kind in enumerate(kinds):
        share = percent(seconds[kind] / whole)
        words = f"{duration(seconds[kind])}, {share}" if seconds[kind] else "none"
        beside_bar(axes, seconds[kind], place, words, colours)
    axes.set_yticks(range(len(kinds)), kinds)
    axes.grid(visible=False, axis="y")
    time_axis(axes.xaxis, "time", longest)
    axes.set(xlim=(0, longest * 1.5), ylim=(len(kinds) - 0.4, -0.6), title=f"{title}: {duration(whole)}")
    shares = sorted(kinds, key=lambda kind: -seconds[kind])[:2]
    most = ", ".join(f"{kind} {percent(seconds[kind] / whole)}" for kind in shares)
    figure.figures.append(f"{title}: {duration(whole)}, most of it {most}")
