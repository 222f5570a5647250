"""Parts of views: widgets that are closed together, and folds that open without the kernel."""

from __future__ import annotations

from typing import Any

import ipywidgets

from nbruntime.display.html import escape

PARTS = "nbr-parts"
"""CSS class of a box that `PARTS_STYLE` applies to."""

PARTS_STYLE = """
.nbr-parts .widget-html,.nbr-parts .widget-html-content{line-height:inherit;height:auto;overflow:visible;
font-size:inherit}
.nbr-parts .nbr-folded{display:none!important}
.nbr-parts .nbr-fold:has(details[open])+.nbr-folded{display:flex!important}
@supports not selector(:has(a)){.nbr-parts .nbr-folded{display:flex!important}}
""".strip().replace("\n", "")
"""A fold is constant HTML, so it stays open or closed as the reader left it; the folded widget follows it."""


def widget_bundle(widget: Any) -> dict[str, Any]:
    """Return the output that shows a widget; only ipywidgets 8 has a method for it."""
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    return {"application/vnd.jupyter.widget-view+json": view}


class ViewBox(ipywidgets.VBox):  # type: ignore[misc]
    """A vertical box that can still be displayed after it was closed."""

    def close(self) -> None:
        """Close the widget, and keep the methods that show it, which ipywidgets sets to None."""
        super().close()
        for method in ("_ipython_display_", "_repr_mimebundle_"):
            self.__dict__.pop(method, None)


class WidgetKit:
    """Makes the widgets of a view, and closes them together.

    The widgets share one layout and one style, which saves a widget and a message for each.
    """

    def __init__(self) -> None:
        self._made: list[Any] = []
        self.layout = self.keep(ipywidgets.Layout())
        self._style = self.keep(ipywidgets.HTML.style.klass())  # ipywidgets 7 has no HTMLStyle

    def keep(self, widget: Any) -> Any:
        """Register a widget to be closed with the others, including its layout and style."""
        self._made.append(widget)
        return widget

    def html(self, value: str = "") -> Any:
        """Make an HTML widget."""
        return self.keep(ipywidgets.HTML(value, layout=self.layout, style=self._style))

    def box(self, children: list[Any]) -> Any:
        """Make a vertical box."""
        return self.keep(ipywidgets.VBox(children, layout=self.layout))

    def row(self, children: list[Any]) -> Any:
        """Make a horizontal box."""
        return self.keep(ipywidgets.HBox(children, layout=self.layout))

    def folded(self, label: str, inner: Any) -> tuple[Any, Any]:
        """Make a fold that opens without the kernel, since a busy kernel handles no clicks."""
        fold = self.html(f"<details><summary>{escape(label)}</summary></details>")
        fold.add_class("nbr-fold")
        inner.add_class("nbr-folded")
        return fold, inner

    def freeze(self, box: Any, html: str) -> None:
        """Leave only constant HTML in a box, and close all other widgets."""
        grown, self._made = self._made, [self.layout, self._style]
        if box in grown:
            self.keep(box)
        box.children = [self.html(html)]
        for widget in grown:
            self._close(widget)

    def close(self) -> None:
        """Close all registered widgets."""
        while self._made:
            self._close(self._made.pop())

    def _close(self, widget: Any) -> None:
        for part in (widget, getattr(widget, "layout", None), getattr(widget, "style", None)):
            if part is not None and part not in self._made:
                part.close()
