"""The cards of generations and streams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nbruntime.display.cards import Card, Details, Tone, table
from nbruntime.display.html import escape, shortened
from nbruntime.display.numbers import duration
from nbruntime.generation.timings import decode_rate
from nbruntime.generation.tokens import token_rows

PROMPT_WIDTH = 100
"""Characters of a prompt that a card shows while its details are folded."""


# Records import this module to show themselves, so the cards do not import the records, not even as types.


def generation_card(generation: Any, *, body: str | None = None, state: str = "") -> Card:
    """Make the card of one generation: its text (or `body`, as HTML), and its figures below."""
    if body is None:
        body = _plain_html(generation.text)
    details = []
    if isinstance(generation.prompt, str):
        details.append(Details("prompt", text=generation.prompt))
    if generation.tokens:
        details.append(Details("tokens", rows=token_rows(generation.tokens), heads=True))
    return Card(
        "Generation",
        state=state or _state(generation),
        tone=_tone(generation, state),
        body=body,
        plain=generation.text,
        pairs=figures(generation),
        details=details,
    )


def figures(generation: Any) -> list[tuple[str, object]]:
    """Return a generation's figures as (label, value)."""
    timings = generation.timings
    tokens = f"{generation.prompt_tokens} prompt"
    if generation.cached_tokens:
        tokens += f" ({generation.cached_tokens} cached)"
    return [
        ("tokens", f"{tokens} + {generation.completion_tokens} new"),
        ("TTFT", None if timings.ttft is None else duration(timings.ttft)),
        ("decode", decode_rate(len(timings.itl), sum(timings.itl))),
        ("total", None if timings.total is None else duration(timings.total)),
    ]


def generations_card(generations: Sequence[Any]) -> Card:
    """Make the card of several generations: a row each, the texts folded."""
    rows: list[list[object]] = [["", "prompt", "text", "tokens", "finish"]]
    for number, each in enumerate(generations):
        prompt = each.prompt if isinstance(each.prompt, str) else f"{len(each.prompt or ())} tokens"
        rows.append(
            [number, shortened(prompt, 40), shortened(each.text, 60), each.completion_tokens, _state(each)]
        )
    tokens = sum(each.completion_tokens for each in generations)
    return Card(
        f"{len(generations)} generations",
        body=table(rows, heads=True),
        plain="\n".join(f"  [{row[0]}] {row[2]}" for row in rows[1:]),
        pairs=[("new tokens", tokens)],
        details=[Details(f"text {number}", text=each.text) for number, each in enumerate(generations)],
    )


def stream_card(stream: Any) -> Card:
    """Make the card of a stream of either kind: its state, and the texts so far."""
    generations, error = stream.generations, stream.error
    reasons = [each.finish_reason for each in generations]
    state: str
    tone: Tone
    if error is not None:
        state, tone = str(error).split("\n", 1)[0], "bad"
    elif not stream.done:
        state, tone = "running", "busy"
    elif all(reason is not None and reason.type != "abort" for reason in reasons):
        state, tone = "finished", "good"
    else:
        state, tone = "stopped", "idle"
    texts = [each.text for each in generations]
    one = len(texts) == 1
    body = _plain_html(texts[0]) if one else ""
    return Card(
        type(stream).__name__,
        stream.rid,
        state,
        tone,
        pairs=figures(generations[0]) if one else [("answers", len(texts))],
        body=body,
        details=[] if one else [Details(f"text {n}", text=text or "…") for n, text in enumerate(texts)],
        plain="\n".join(f"  {shortened(text, 100)!r}" for text in texts),
    )


def _plain_html(text: str) -> str:
    style = "white-space:pre-wrap;overflow-wrap:anywhere;max-height:30em;overflow:auto"
    return f'<div style="{style}">{escape(text)}</div>'


def _state(generation: Any) -> str:
    return "" if generation.finish_reason is None else str(generation.finish_reason)


def _tone(generation: Any, state: str) -> Tone:
    reason = generation.finish_reason
    if state or reason is None:
        return "idle"
    return "bad" if reason.type == "abort" else "good"
