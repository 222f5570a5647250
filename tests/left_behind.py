"""That a test leaves nothing behind: no widget that is open, and no thread of ours."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ipywidgets.widgets import widget as widgets

THREADS = {f"nbruntime-{name}" for name in ("read", "draw", "stop", "panel", "panel-action", "launch")}
"""Of the notebook's floor; those of clients end with them."""


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Fail if a widget was opened and not closed, or if a thread of nbruntime does not end."""
    before, threads_before = set(widgets._instances), set(threading.enumerate())
    yield
    left = [widgets._instances[model] for model in set(widgets._instances) - before]
    assert not left
    for thread in set(threading.enumerate()) - threads_before:
        if thread.name in THREADS:
            thread.join(10)
            assert not thread.is_alive(), thread
