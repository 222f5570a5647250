"""Answers at their end: a static form that is read again without kernel, widgets or network."""

from __future__ import annotations

from typing import Any

from nbruntime.cards import STYLE
from nbruntime.errors import NbruntimeError
from nbruntime.generation import Generation, GenerationStream
from nbruntime.generation.cards import figures
from nbruntime.markup import escape, visible
from nbruntime.notebook.live_text import text_html

LIVE_STYLE = """
.nbr-text{overflow-wrap:anywhere}.nbr-plain{white-space:pre-wrap}
.nbr-text p,.nbr-text ul,.nbr-text ol,.nbr-text pre{margin:0 0 .6em}
.nbr .nbr-text pre{padding:.5em .7em;max-height:none;
border:1px solid var(--jp-border-color2,rgba(128,128,128,.35))}
.nbr .nbr-from-code>pre:first-child{border-top:0;padding-top:0}
.nbr .nbr-into-code>pre:last-child{border-bottom:0;padding-bottom:0;margin-bottom:0}
.nbr-text table{border-collapse:collapse;margin:0 0 .6em}
.nbr-text th,.nbr-text td{padding:.1em .9em .1em 0;text-align:left;
border-bottom:1px solid var(--jp-border-color2,rgba(128,128,128,.35))}
.nbr-text .k,.nbr-text .kn,.nbr-text .kd,.nbr-text .ow{font-weight:600;
color:var(--jp-mirror-editor-keyword-color,#7b4ba6)}
.nbr-text .s,.nbr-text .s1,.nbr-text .s2,.nbr-text .sd{color:var(--jp-mirror-editor-string-color,#b3451f)}
.nbr-text .c,.nbr-text .c1,.nbr-text .cm{font-style:italic;
color:var(--jp-mirror-editor-comment-color,#5f7f7f)}
.nbr-text .mi,.nbr-text .mf{color:var(--jp-mirror-editor-number-color,#1a7f5a)}
.nbr-text .nf,.nbr-text .nc{color:var(--jp-mirror-editor-def-color,#3a6fb0)}
.nbr-live .widget-html,.nbr-live .widget-html-content{line-height:inherit;height:auto;overflow:visible}
.nbr-caret{display:inline-block;width:.45em;height:1em;vertical-align:-.15em;background:currentColor;opacity:.6;
animation:nbr-blink 1s steps(2) infinite}
@keyframes nbr-blink{50%{opacity:0}}
@media(prefers-reduced-motion:reduce){.nbr-caret{animation:none}}
""".strip().replace("\n", "")


def answer_bundle(
    stream: GenerationStream, *, markdown: bool = True, interrupted: bool = False
) -> dict[str, Any]:
    """Give the static form of a stream that has ended, in any way.

    Parameters
    ----------
    stream : GenerationStream
        Read to its end, left or failed.
    markdown : bool
        Whether its text is markdown.
    interrupted : bool
        Whether it was stopped from here.

    Returns
    -------
    dict
        MIME bundle: plain text, HTML and markdown.
    """
    generations = stream.generations
    error = stream.error
    bodies = [_body(each, error, markdown=markdown, interrupted=interrupted) for each in generations]
    html = f'<div class="nbr"><style>{STYLE}{LIVE_STYLE}</style>{"<hr/>".join(bodies)}</div>'
    text = "\n\n".join(visible(each.text) for each in generations)
    plain = text if error is None else f"{text}\n[{visible(str(error).splitlines()[0])}]"
    return {"text/plain": plain, "text/html": html, "text/markdown": text}


def _body(generation: Generation, error: NbruntimeError | None, *, markdown: bool, interrupted: bool) -> str:
    parts = [f"{label} {value}" for label, value in figures(generation) if value is not None]
    if generation.finish_reason is not None and not interrupted:
        parts.append(str(generation.finish_reason))
    line = f'<div class="nbr-quiet">{escape(" · ".join(parts))}</div>'
    if interrupted:
        line = f'<div><span class="nbr-busy">○</span> interrupted</div>{line}'
    elif error is not None:
        first = str(error).splitlines()[0]
        line = f'<div><span class="nbr-bad">▲</span> {escape(first)}</div>{line}'
    return text_html(generation.text, markdown=markdown) + line
