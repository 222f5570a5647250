"""That a test leaves nothing behind: no widget that is open, and no thread of ours."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ipywidgets.widgets import widget as widgets

_NAMES = ("read", "draw", "stop", "panel", "panel-action", "launch", "profile", "bench", "bench-load")
THREADS = {f"nbruntime-{name}" for name in _NAMES}
"""Of the notebook's floor; those of clients end with them."""

OPEN_WIDGETS = widgets._instances if hasattr(widgets, "_instances") else widgets.Widget.widgets
"""By their models' ids; the second is that of ipywidgets 7."""

PATIENCE = 10.0
"""Seconds that all of them together may take to end."""


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Fail if a widget was opened and not closed, or if a thread of nbruntime does not end."""
    before, threads_before = set(OPEN_WIDGETS), set(threading.enumerate())
    yield
    left = [OPEN_WIDGETS[model] for model in set(OPEN_WIDGETS) - before]
    for widget in left:
        widget.close()  # else what a failed test has left would run on through all others
    deadline = time.monotonic() + PATIENCE
    threads = [each for each in set(threading.enumerate()) - threads_before if each.name in THREADS]
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    assert not left
    assert not [thread for thread in threads if thread.is_alive()]
