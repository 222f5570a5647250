"""How the magics show things: widgets and HTML in a notebook, text in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from IPython.display import display

from nbruntime.cards import Card
from nbruntime.generation.cards import figures
from nbruntime.markup import visible
from nbruntime.views import in_kernel, view_class

if TYPE_CHECKING:
    from nbruntime.generation import Generation, GenerationStream


def show_stream(stream: GenerationStream, *, view: str, draws_per_second: float) -> None:
    """Read a stream to its end, and show it meanwhile.

    Parameters
    ----------
    stream : GenerationStream
    view : str
        ``markdown``, ``plain`` or ``none``. A terminal always shows plain text.
    draws_per_second : float
        At most; of a view in a notebook.

    Raises
    ------
    GenerationError, KeyboardInterrupt
        As the stream does; what came stays shown.
    """
    if view == "none":
        stream.result()
    elif in_kernel():
        shown = view_class("stream")(stream, markdown=view == "markdown", draws_per_second=draws_per_second)
        shown.show()
    else:
        _print_stream(stream)


def show_generations(generations: Sequence[Generation], *, view: str) -> None:
    """Show answers that have come as a whole.

    Parameters
    ----------
    generations : sequence of Generation
    view : str
        As in `show_stream`.
    """
    if view == "none":
        return
    if not in_kernel():
        _print_generations(generations)
        return
    from nbruntime.notebook.answers import answer_bundle

    whole = cast("GenerationStream", _Ended(list(generations)))
    display(answer_bundle(whole, markdown=view == "markdown"), raw=True)


def show_card(card: Card) -> None:
    """Show a card in the cell, or in a terminal its text."""
    if in_kernel():
        display(card.mimebundle(), raw=True)
    else:
        print(card.text())


@dataclass(frozen=True)
class _Ended:
    """As much of a stream that has ended as its static form needs."""

    generations: list[Generation]
    error: None = None


def _print_stream(stream: GenerationStream) -> None:
    many = len(stream.texts) > 1
    with stream:
        try:
            for delta in stream.deltas():
                if not many:  # several texts at once cannot be read
                    print(visible(delta.text), end="", flush=True)
        finally:
            if many:
                _print_generations(stream.generations)
            else:
                print()
                _print_figures(stream.generations[0])


def _print_generations(generations: Sequence[Generation]) -> None:
    for number, generation in enumerate(generations):
        head = f"[{number}] " if len(generations) > 1 else ""
        print(head + visible(generation.text))
        _print_figures(generation)


def _print_figures(generation: Generation) -> None:
    parts: list[Any] = [f"{label} {value}" for label, value in figures(generation) if value is not None]
    if generation.finish_reason is not None:
        parts.append(generation.finish_reason)
    print(f"  {visible(' · '.join(map(str, parts)))}")
