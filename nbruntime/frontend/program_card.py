"""The card of a program of SGLang's frontend language.

It shows the roles, the variables, the choices and their scores, the forks, and the time.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Sequence
from typing import Any

from nbruntime.display.cards import Card, Details, Tone, table
from nbruntime.display.html import escape, shortened
from nbruntime.display.live_text import CARET
from nbruntime.display.numbers import duration, token_count
from nbruntime.frontend.programs import Branch, Program, Step
from nbruntime.frontend.transcript import Forks, Piece, Transcript, Turn

SHOWN_FORKS = 16
"""Forks of one place that are shown; of more, the first ones."""

LONGEST_ARGUMENT = 50
"""Characters of an argument in the title."""

LONGEST_TEXT = 20_000
"""Characters of a piece that are shown; of a longer one, its beginning and its end."""

PROGRAM_STYLE = """
.nbr-program{--nbr-line:var(--jp-border-color2,var(--vscode-panel-border,rgba(128,128,128,.35)));max-width:48em}
.nbr-program .nbr-turn{margin:.45em 0 0}
.nbr-program .nbr-role{font-size:.86em;opacity:.7}
.nbr-program .nbr-said{white-space:pre-wrap;overflow-wrap:anywhere}
.nbr-program .nbr-var{background:rgba(128,128,128,.14);border-radius:2px;-webkit-box-decoration-break:clone;
box-decoration-break:clone}
.nbr-program .nbr-said code.nbr-name{background:none;font-size:.8em;opacity:.75;
margin:0 .3em 0 .15em;padding:0}
.nbr-program .nbr-figures{font-size:.86em;font-variant-numeric:tabular-nums;opacity:.7}
.nbr-program .nbr-fork{margin:.45em 0 0;padding:0 0 0 .9em;border-left:1px solid var(--nbr-line)}
.nbr-program .nbr-caret{display:inline-block;width:.45em;height:1em;margin-left:.1em;vertical-align:-.12em;
background:currentColor;opacity:.55}
.nbr-program .widget-html,.nbr-program .widget-html-content{line-height:inherit;height:auto;overflow:visible;
font-size:inherit;margin:0}
""".strip().replace("\n", "")
"""Stands beside `nbruntime.display.cards.STYLE`."""


def program_card(transcript: Transcript, program: Program | None, *, whole: bool = True) -> Card:
    """Make the card of a program, whose arguments `program` knows; only title and state if not `whole`."""
    branch, steps = transcript.branch, list(transcript.steps())
    state, tone = _state(branch)
    name = "" if program is None else shortened(_arguments(program.arguments), 120)
    kind = "Program" if branch.start is None else "Fork"
    if not whole:
        return Card(kind, name, state, tone)
    growing = branch.running
    html = "".join(item_html(item, growing=growing) for item in transcript.items)
    lines = [line for item in transcript.items for line in _item_lines(item)]
    if branch.failure:
        html += _failure_html(branch.failure)
        lines += [f"  {line}" for line in branch.failure]
    return Card(
        kind,
        name,
        state,
        tone,
        body=f'<style>{PROGRAM_STYLE}</style><div class="nbr-program">{html}</div>',
        plain="\n".join(lines),
        pairs=_figures(steps, branch),
        details=[
            Details("variables", rows=_variable_rows(branch)),
            Details("text, as the model sees it", text=_cut(branch.text)),
        ],
    )


def _state(branch: Branch) -> tuple[str, Tone]:
    if branch.failure:
        return "failed", "bad"
    if branch.running:
        return "running", "busy"
    return ("finished", "good") if branch.finished else ("not joined", "idle")


def _figures(steps: Sequence[Step], branch: Branch) -> list[tuple[str, object]]:
    answers = [answer for step in steps for answer in step.generations]
    ends = [step.began + step.seconds for step in steps if step.seconds is not None]
    took = max(ends) - min(step.began for step in steps) if ends else None
    images = len(branch.images)
    cached = sum(each.cached_tokens for each in answers)
    return [
        ("calls", len(steps) or None),
        ("new", token_count(sum(each.completion_tokens for each in answers)) if answers else None),
        ("cached", token_count(cached) if cached else None),
        ("took", None if took is None else duration(took)),
        ("images", images or None),
    ]


def _arguments(arguments: dict[str, Any]) -> str:
    shown = {
        name: repr(shortened(value, LONGEST_ARGUMENT)) if isinstance(value, str) else reprlib.repr(value)
        for name, value in list(arguments.items())
    }
    return ", ".join(f"{name}={value}" for name, value in shown.items())


def _variable_rows(branch: Branch) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for name, value in list(branch.variables.items()):
        if isinstance(value, list):
            rows += [(f"{name}[{number}]", shortened(str(each), 400)) for number, each in enumerate(value)]
        else:
            rows.append((str(name), shortened(str(value), 400)))
    return rows


# One item


def item_html(item: Turn | Forks, *, growing: bool) -> str:
    """Write one item of a transcript as HTML; if `growing`, with a caret where the model is writing."""
    if isinstance(item, Turn):
        return _turn_html(item, growing=growing)
    parts = []
    for number, each in enumerate(item.branches[:SHOWN_FORKS]):
        inner = "".join(item_html(inner, growing=growing) for inner in each.items)
        if each.branch.failure:
            inner += _failure_html(each.branch.failure)
        parts.append(f'<div class="nbr-fork"><div class="nbr-role">fork {number}</div>{inner}</div>')
    if len(item.branches) > SHOWN_FORKS:
        parts.append(f'<div class="nbr-quiet">{len(item.branches) - SHOWN_FORKS} forks are not shown</div>')
    return "".join(parts)


def _turn_html(turn: Turn, *, growing: bool) -> str:
    role = f'<div class="nbr-role">{escape(turn.role)}</div>' if _has_head(turn) else ""
    said = "".join(_piece_html(piece, growing=growing) for piece in _shown(turn.pieces))
    notes = "".join(_notes_html(piece) for piece in turn.pieces if piece.step is not None)
    return f'<div class="nbr-turn">{role}<div class="nbr-said">{said}</div>{notes}</div>'


def _piece_html(piece: Piece, *, growing: bool) -> str:
    text = escape(piece.text)
    if not piece.written:
        return text
    name = f'<code class="nbr-name">{escape(piece.name)}</code> ' if piece.name else ""
    caret = CARET if growing and piece.step is not None and piece.step.seconds is None else ""
    return f'{name}<span class="nbr-var">{text}</span>{caret}'


def _notes_html(piece: Piece) -> str:
    step = piece.step
    assert step is not None
    line = f'<div class="nbr-figures">{escape(_step_line(piece, step))}</div>'
    if step.kind == "select" and step.text is not None:
        heads, rows = _scores(step)
        line += table([heads, *rows], heads=True)
    others = [answer.text for answer in step.generations[1:]]
    return line + "".join(
        f"<details><summary>answer {number}</summary><pre>{escape(text)}</pre></details>"
        for number, text in enumerate(others, 2)
    )


def _step_line(piece: Piece, step: Step) -> str:
    parts = [piece.name or step.kind]
    if step.generations:
        parts.append(token_count(sum(answer.completion_tokens for answer in step.generations)))
        ttft = step.generations[0].timings.ttft
        parts.append("" if ttft is None else f"TTFT {duration(ttft)}")
        reason = step.generations[0].finish_reason
        parts.append("" if reason is None else str(reason))
    if step.choices:
        parts.append(f"{len(step.choices)} choices")
    parts.append("…" if step.seconds is None else duration(step.seconds))
    return " · ".join(part for part in parts if part)


def _scores(step: Step) -> tuple[list[object], list[list[object]]]:
    """Return the head and the rows of a choice's scores, the best first."""
    info = step.meta_info or {}
    columns = {
        "mean logprob": info.get("normalized_prompt_logprobs"),
        "against the choice alone": info.get("normalized_unconditional_prompt_logprobs"),
    }
    scores = {name: values for name, values in columns.items() if values is not None}
    rows: list[list[object]] = [
        [choice, "chosen" if choice == step.text else "", *(f"{values[n]:.3f}" for values in scores.values())]
        for n, choice in enumerate(step.choices)
    ]
    order = list(scores.values())[-1] if scores else [0.0] * len(rows)
    rows = [rows[n] for n in sorted(range(len(rows)), key=lambda n: -order[n])]
    return ["choice", "", *scores], rows


def _item_lines(item: Turn | Forks, indent: str = "  ") -> Iterator[str]:
    if isinstance(item, Turn):
        said = "".join(_marked(piece) for piece in _shown(item.pieces))
        lines = said.strip("\n").split("\n")
        yield f"{indent}{item.role}: {lines[0]}" if _has_head(item) else f"{indent}{lines[0]}"
        yield from (f"{indent}  {line}" if line.strip() else "" for line in lines[1:])
        for piece in item.pieces:
            if piece.step is not None and piece.step.kind == "select" and piece.step.text is not None:
                heads, rows = _scores(piece.step)
                scores = ", ".join(f"{row[0]!r} {row[-1]}" for row in rows)
                yield f"{indent}  {piece.name or 'select'}, {heads[-1]}: {scores}"
        return
    for number, each in enumerate(item.branches[:SHOWN_FORKS]):
        last = number == len(item.branches) - 1
        yield f"{indent}{'└' if last else '├'} fork {number}"
        for inner in each.items:
            yield from _item_lines(inner, indent + ("    " if last else "│   "))
        yield from (f"{indent}    {line}" for line in each.branch.failure)
    if len(item.branches) > SHOWN_FORKS:
        yield f"{indent}… {len(item.branches) - SHOWN_FORKS} forks are not shown"


def _has_head(turn: Turn) -> bool:
    return bool(turn.role) and not turn.continued


def _marked(piece: Piece) -> str:
    if not piece.written:
        return piece.text
    return f"«{piece.name}: {piece.text}»" if piece.name else f"«{piece.text}»"


def _shown(pieces: Sequence[Piece]) -> list[Piece]:
    return [Piece(_cut(piece.text), piece.name, piece.step) for piece in pieces]


def _cut(text: str) -> str:
    half = LONGEST_TEXT // 2
    return f"{text[:half]}\n[…]\n{text[-half:]}" if len(text) > LONGEST_TEXT else text


def _failure_html(failure: Sequence[str]) -> str:
    first, *rest = failure
    more = "".join(f"<div>{escape(line)}</div>" for line in rest)
    return f'<div class="nbr-turn"><span class="nbr-bad">▲</span> {escape(first)}{more}</div>'
