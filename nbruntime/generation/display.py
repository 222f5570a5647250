"""How a stream shows itself: a live view in a notebook, text in a terminal or a console, a card elsewhere."""

from __future__ import annotations

from typing import Any

from nbruntime.display.cards import Card, CardMixin
from nbruntime.display.upper_floors import upper_class
from nbruntime.display.views import shows_widgets
from nbruntime.generation.cards import stream_card


class DisplayMixin(CardMixin):
    """The display methods of both kinds of stream."""

    _view: Any = None

    def widget(self, **options: Any) -> Any:
        """Start and return a widget that reads and shows the stream, for a layout of your own.

        Parameters
        ----------
        **options
            Of `nbruntime.notebook.views.stream.StreamView`: ``markdown``, ``draws_per_second``.

        Examples
        --------
        >>> ipywidgets.HBox([one.widget(), other.widget()])  # doctest: +SKIP
        """
        return self._view_of_it(**options).start()

    def _view_of_it(self, **options: Any) -> Any:
        if self._view is None:
            self._view = upper_class("stream")(self, **options)
        return self._view

    def _ipython_display_(self) -> None:
        asynchronous = not hasattr(self, "__next__")
        if (self._view is None and getattr(self, "done", True)) or (asynchronous and not shows_widgets()):
            raise NotImplementedError  # IPython then takes the card
        self._view_of_it()._ipython_display_()

    def _card(self) -> Card:
        return stream_card(self)
