"""Output of the magics: widgets and HTML in a notebook, text in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from IPython.display import display

from nbruntime.display.cards import Card
from nbruntime.display.upper_floors import upper_class
from nbruntime.display.views import shows_widgets

if TYPE_CHECKING:
    from nbruntime.generation import Generation, GenerationStream


def prepare(view: str) -> None:
    """Import a view's modules, so that this does not add to the time to the first token."""
    if view != "none" and shows_widgets():
        upper_class("stream")


def show_stream(stream: GenerationStream, *, view: str, draws_per_second: float) -> None:
    """Read a stream to its end and show it meanwhile; a terminal always shows plain text."""
    if view == "none":
        stream.result()
    elif shows_widgets():
        upper_class("stream")(stream, markdown=view == "markdown", draws_per_second=draws_per_second).show()
    else:
        from nbruntime.generation.printing import print_stream

        print_stream(stream)


def show_generations(generations: Sequence[Generation], *, view: str) -> None:
    """Show complete answers; `view` is as in `show_stream`."""
    if view == "none":
        return
    from nbruntime.generation.answer_html import answer_bundle

    display(answer_bundle(generations, markdown=view == "markdown"), raw=True)


def show_card(card: Card) -> None:
    """Show a card, in a terminal its text."""
    display(card.mimebundle(), raw=True)
