"""Plots of profiles, traces and load tests; the only place of matplotlib."""

from __future__ import annotations

from importlib import import_module
from typing import Any

PLOTS = {
    "plot_requests": "requests",
    "plot_ttft": "ttft",
    "plot_itl": "itl",
    "plot_throughput": "throughput",
    "plot_cache": "cache",
    "plot_steps": "steps",
    "plot_step_time": "step_time",
    "plot_operators": "operators",
    "plot_kernel_classes": "kernel_classes",
    "plot_idle": "idle",
}
"""The plots of a profile and their modules, in the order of a report."""


def plot(name: str, data: Any, **options: Any) -> Any:
    """Draw the plot of a profile that has this name in `PLOTS`; matplotlib is loaded only now."""
    module = import_module(f"{__name__}.{PLOTS[name]}")
    return getattr(module, name)(data, **options)
