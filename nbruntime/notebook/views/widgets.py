"""What views are made of: widgets that are closed together, and folds that open without the kernel."""

from __future__ import annotations

from typing import Any

import ipywidgets
from ipywidgets.widgets.widget_string import HTMLStyle

from nbruntime.display.html import escape

PARTS = "nbr-parts"
"""Class of a box that `PARTS_STYLE` is for."""

PARTS_STYLE = """
.nbr-parts .widget-html,.nbr-parts .widget-html-content{line-height:inherit;height:auto;overflow:visible;
font-size:inherit}
.nbr-parts .nbr-folded{display:none!important}
.nbr-parts .nbr-fold:has(details[open])+.nbr-folded{display:flex!important}
@supports not selector(:has(a)){.nbr-parts .nbr-folded{display:flex!important}}
""".strip().replace("\n", "")
"""A fold is HTML that never changes, so it stays as the reader left it; what it folds comes after it."""


class WidgetKit:
    """Makes the widgets of a view, and closes them together.

    Pieces share one layout and one style: each would be a widget and a message of its own.
    """

    def __init__(self) -> None:
        self._made: list[Any] = []
        self.layout = self.keep(ipywidgets.Layout())
        self._style = self.keep(HTMLStyle())

    def keep(self, widget: Any) -> Any:
        """Take a widget to close with the others, its layout and its style too."""
        self._made.append(widget)
        return widget

    def html(self, value: str = "") -> Any:
        """Make a piece of HTML."""
        return self.keep(ipywidgets.HTML(value, layout=self.layout, style=self._style))

    def box(self, children: list[Any]) -> Any:
        """Make a box whose children stand one below the other."""
        return self.keep(ipywidgets.VBox(children, layout=self.layout))

    def row(self, children: list[Any]) -> Any:
        """Make a box whose children stand side by side."""
        return self.keep(ipywidgets.HBox(children, layout=self.layout))

    def folded(self, label: str, inside: Any) -> tuple[Any, Any]:
        """Make a fold that opens without the kernel: a busy one handles no clicks."""
        fold = self.html(f"<details><summary>{escape(label)}</summary></details>")
        fold.add_class("nbr-fold")
        inside.add_class("nbr-folded")
        return fold, inside

    def close(self) -> None:
        """Close every widget that was made."""
        while self._made:
            widget = self._made.pop()
            for part in (widget, getattr(widget, "layout", None), getattr(widget, "style", None)):
                if part is not None:
                    part.close()
