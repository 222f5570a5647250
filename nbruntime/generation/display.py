"""How a stream shows itself: a live view in a notebook, a card elsewhere."""

from __future__ import annotations

from typing import Any

from nbruntime.display.cards import Card, CardMixin
from nbruntime.display.views import in_kernel, view_class
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
            self._view = view_class("stream")(self, **options)
        return self._view

    def _ipython_display_(self) -> None:
        if not in_kernel() or (self._view is None and getattr(self, "done", True)):
            raise NotImplementedError  # IPython then takes the card
        self._view_of_it().show(block=False)

    def _card(self) -> Card:
        return stream_card(self)
