"""Streams in a terminal: the text as it arrives, and the figures at the end."""

from __future__ import annotations

from nbruntime.display.html import visible
from nbruntime.generation import Generation, GenerationStream


def print_stream(stream: GenerationStream) -> Generation | list[Generation]:
    """Print a stream as it arrives, several answers one after the other, and return its result.

    If it was read in part, the whole text is printed. If it raises, the text so far stays printed.
    """
    from nbruntime.generation.answer_html import figures_line, foot_parts, head

    generations = stream.generations
    waiting = stream.texts_read
    finished = [False] * len(generations)
    current = 0

    def begin() -> None:
        title = head(generations[current], generations)
        if title:
            print(f"[{visible(title)}]")
        print(visible(waiting[current]), end="", flush=True)

    def end() -> None:
        failed = stream.error is not None
        state, figures = foot_parts(stream.generations[current], "interrupted", failed=failed)
        print(f"\n  {visible(figures_line(state, figures))}")

    with stream:
        begin()
        try:
            for delta in stream.deltas():
                finished[delta.index] = delta.finished
                if delta.index == current:
                    print(visible(delta.text), end="", flush=True)
                else:
                    waiting[delta.index] += delta.text
                while finished[current] and current + 1 < len(generations):
                    end()
                    current += 1
                    begin()
        finally:
            end()
            while current + 1 < len(generations):
                current += 1
                begin()
                end()
    return stream.result()
