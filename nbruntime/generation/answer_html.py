"""HTML, text and markdown of answers, while they grow and at their end.

The static form can be read without kernel, widgets or network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from nbruntime.display.answer_style import LIVE_STYLE as LIVE_STYLE
from nbruntime.display.cards import CLASSES, STYLE
from nbruntime.display.html import escape, shortened, visible
from nbruntime.display.live_text import text_html
from nbruntime.display.markdown import safe_markdown, with_closed_fence
from nbruntime.display.numbers import duration, token_count
from nbruntime.errors import NbruntimeError
from nbruntime.generation import Generation
from nbruntime.generation.timings import decode_rate

Ending = Literal["interrupted", "stopped"]
"""How the client ended a stream."""

LONGEST_ANSWER = 200_000
"""Most characters of one answer to show; a longer one is cut in the middle.

Jupyter drops messages that are larger than a few megabytes, and a bundle holds the text three times.
"""


def answer_bundle(
    generations: Sequence[Generation],
    error: NbruntimeError | None = None,
    *,
    markdown: bool = True,
    ending: Ending | None = None,
) -> dict[str, Any]:
    """Make the MIME bundle (text, HTML, markdown) of the answers of one request, which have ended."""
    longest = LONGEST_ANSWER // len(generations)
    texts = [_shown(each.text, longest) for each in generations]
    heads = [head(each, generations) for each in generations]
    html: list[str] = []
    plain: list[str] = []
    marked: list[str] = []
    for title, text, generation in zip(heads, texts, generations, strict=True):
        foot = foot_parts(generation, ending, failed=error is not None)
        html.append(
            head_html(title, first=not html)
            + text_html(text, markdown=markdown)
            + foot_html(*foot, ended=True)
        )
        prefix = f"[{title}]\n" if title else ""
        note = f"\n[{foot[0]}]" if foot[0] else ""
        plain.append(prefix + visible(text + note))
        prefix = f"**{safe_markdown(title)}**\n\n" if title else ""
        marked.append(
            prefix + safe_markdown(with_closed_fence(text)) + (f"\n\n[{foot[0]}]" if foot[0] else "")
        )
    if error is not None:
        html.append(error_html(error))
        plain.append(f"[{first_line(error)}]")
        marked.append(safe_markdown(f"[{first_line(error)}]"))
    classes, style = " ".join([*CLASSES, "nbr-answers"]), f"<style>{STYLE}{LIVE_STYLE}</style>"
    return {
        "text/plain": "\n".join(plain),
        "text/html": f'<div class="{classes}">{style}{"".join(html)}</div>',
        "text/markdown": "\n\n".join(marked),
    }


def head(generation: Generation, generations: Sequence[Generation]) -> str:
    """Return the title of one answer of several: its number, and its prompt where prompts differ."""
    if len(generations) == 1:
        return ""
    number = f"{generation.index + 1} of {len(generations)}"
    prompts = [each.prompt for each in generations]
    if isinstance(generation.prompt, str) and any(each != prompts[0] for each in prompts):
        return f"{number} · {shortened(generation.prompt, 72)}"
    return number


def head_html(title: str, *, first: bool) -> str:
    """Write an answer's title; the first one has no space above it."""
    kind = "nbr-quiet" if first else "nbr-quiet nbr-next"
    return f'<div class="nbr-head {kind}">{escape(title)}</div>' if title else ""


def foot_html(state: str, figures: str, *, ended: bool = False) -> str:
    """Write the line below an answer: how it was cut short, if it was, and its figures.

    Only a final line has the role of a status, so a screen reader announces it once.
    """
    role = ' role="status"' if ended else ""
    dot = f'<span class="nbr-busy">○</span> {escape(state)}' if state else ""
    line = f'<span class="nbr-quiet">{escape(figures)}</span>' if figures else ""
    space = " · " if dot and line else ""
    return f'<div class="nbr-foot"{role}>{dot}{space}{line}</div>' if dot or line else ""


def error_html(error: NbruntimeError) -> str:
    """Write the first line of an error."""
    line = f'<span class="nbr-bad">▲</span> {escape(first_line(error))}'
    return f'<div class="nbr-foot" role="status">{line}</div>'


def figures_line(*parts: object) -> str:
    """Join figures in one line, without the unknown ones."""
    return " · ".join(str(part) for part in parts if part)


def foot_parts(
    generation: Generation, ending: Ending | None = None, *, failed: bool = False
) -> tuple[str, str]:
    """Return how an answer was cut short (empty if it ended by itself), and its figures, for `foot_html`."""
    reason, timings = generation.finish_reason, generation.timings
    ended_itself = reason is not None and reason.type != "abort"
    prompt = f"prompt {token_count(generation.prompt_tokens)}" if generation.prompt_tokens else ""
    if generation.cached_tokens:
        prompt += f", {generation.cached_tokens:,} cached"
    figures = figures_line(
        token_count(generation.completion_tokens),
        decode_rate(len(timings.itl), sum(timings.itl)),
        "" if timings.ttft is None else f"TTFT {duration(timings.ttft)}",
        prompt,
        reason if ended_itself else "",
    )
    return ("" if ended_itself or failed else ending or "interrupted"), figures


def first_line(error: NbruntimeError) -> str:
    """Return the first line of an error, its control characters visible."""
    return visible(str(error).split("\n", 1)[0])


def _shown(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n\n[{len(text) - 2 * half:,} characters are not shown]\n\n{text[-half:]}"
