"""Writes a profile as one page: summary, figures, plots, definitions and tables, without a script."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from nbruntime._version import __version__
from nbruntime.display.cards import STYLE, table
from nbruntime.display.html import escape
from nbruntime.profiling.card import figure_pairs, request_rows, state
from nbruntime.profiling.figures import DEFINITIONS
from nbruntime.profiling.files import replacing
from nbruntime.profiling.plots import PLOTS, plot
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.summary.summary import summary

PAGE_STYLE = """
:root{color-scheme:light dark;--page:#fff;--ink:#1c1c1c;--line:#d9d9d9}
@media (prefers-color-scheme:dark){:root{--page:#161616;--ink:#e4e4e4;--line:#3a3a3a;
--nbr-accent:#82b1ea;--nbr-good:#5cc49b;--nbr-bad:#ee9a76}}
body{background:var(--page);color:var(--ink);margin:2.5em auto;max-width:960px;padding:0 1.2em;
font:15px/1.5 system-ui,sans-serif}
.nbr{font-size:15px;max-width:none}
h1{font-size:1.5em;font-weight:600;margin:0}
h2{font-size:1.1em;font-weight:600;margin:2em 0 .4em;padding-top:.8em;border-top:1px solid var(--line)}
section{overflow-x:auto}
.nbr-figure{margin:0 0 1.6em}
""".strip().replace("\n", "")

_HAS_DATA: dict[str, Callable[[ProfileData], bool]] = {
    "plot_requests": lambda data: bool(data.requests),
    "plot_ttft": lambda data: any(each.ttft is not None for each in data.requests),
    "plot_itl": lambda data: any(each.itl for each in data.requests),
    "plot_throughput": lambda data: any(each.arrivals for each in data.requests) or bool(data.samples),
    "plot_cache": lambda data: any(each.prompt_tokens for each in data.requests) or bool(data.samples),
    "plot_steps": lambda data: bool(data.steps),
    "plot_step_time": lambda data: bool(data.steps),
    "plot_operators": lambda data: data.trace is not None,
    "plot_kernel_classes": lambda data: data.trace is not None,
    "plot_idle": lambda data: data.trace is not None,
}
"""Whether a plot has something to show."""


def write_report(path: str | os.PathLike[str], data: ProfileData) -> Path:
    """Write the report of a profile as one self-contained page of HTML, and return its path.

    It follows the light or dark theme of the reader's system.

    Parameters
    ----------
    path : path
        Name of the file; a file of that name is replaced only by a whole one.
    data : ProfileData
        The profile.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    path = Path(path)
    page = report_html(data).encode()
    with replacing(path) as file:
        file.write(page)
    return path


def report_html(data: ProfileData) -> str:
    """Return the page of `write_report`."""
    data = data.snapshot()
    title = escape(f"Profile {data.model}".strip())
    sections = [
        _section("Summary", summary(data).html()),
        _section("Figures", table(_known(figure_pairs(data, data.figures)), labels=True)),
        _section("Plots", "".join(_pictures(data))),
        _section("Requests", table(rows, heads=True) if (rows := request_rows(data)) else ""),
        _section("Definitions", table(DEFINITIONS, labels=True)),
        _section("Notes", "".join(f"<p>{escape(note)}</p>" for note in data.notes)),
    ]
    word, _ = state(data, day=True)
    made = escape(f"{word} · nbruntime {__version__}")
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"/>'
        f"<title>{title}</title><style>{STYLE}{PAGE_STYLE}</style></head>"
        f'<body><div class="nbr"><h1>{title}</h1><div class="nbr-quiet">{made}</div>{"".join(sections)}'
        "</div></body></html>\n"
    )


def _pictures(data: ProfileData) -> list[str]:
    """Draw the plots that have data."""
    drawn = [name for name in PLOTS if name not in _HAS_DATA or _HAS_DATA[name](data)]
    return [str(plot(name, data).html(page="system")) for name in drawn]


def _known(pairs: list[tuple[str, object]]) -> list[tuple[str, object]]:
    return [(label, value) for label, value in pairs if value]


def _section(head: str, body: str) -> str:
    return f"<section><h2>{escape(head)}</h2>{body}</section>" if body else ""
