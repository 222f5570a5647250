"""The text of a program of the frontend language, cut into turns, variables and forks.

It is read from the interpreter's objects and from the records in `nbruntime.frontend.programs`; for a program
that ran on another backend, from the objects alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from nbruntime.frontend.programs import Branch, Program, Step


@dataclass(frozen=True)
class Piece:
    """A part of a turn: the value of variable `name`, text of the call `step`, or the program's own text."""

    text: str
    name: str | None = None
    step: Step | None = None

    @property
    def written(self) -> bool:
        """True if the model wrote it."""
        return self.name is not None or self.step is not None


@dataclass(frozen=True)
class Turn:
    """The text of one role (empty outside of roles); `continued` if it began before a fork."""

    role: str
    pieces: list[Piece]
    continued: bool = False


@dataclass(frozen=True)
class Forks:
    """Forks that began at the same place, each from there on."""

    branches: list[Transcript]


@dataclass(frozen=True)
class Transcript:
    """The text of a program or of one of its forks, as turns and forks in order."""

    branch: Branch
    items: list[Turn | Forks] = field(default_factory=list)

    def steps(self) -> Iterator[Step]:
        """Yield all calls of the model, those of forks included."""
        yield from self.branch.steps
        for item in self.items:
            if isinstance(item, Forks):
                for each in item.branches:
                    yield from each.steps()


@dataclass(frozen=True)
class _Region:
    start: int
    stop: int
    role: str = ""
    continued: bool = False


def read(branch: Branch, program: Program | None) -> Transcript:
    """Read the transcript of a branch as of its last `look`; `program` knows its forks."""
    forks: dict[int, list[Transcript]] = {}
    for child in [] if program is None else program.children(branch):
        forks.setdefault(child.start or 0, []).append(read(child, program))
    marks = _marks(branch)
    made = Transcript(branch)
    for region in _regions(branch):
        start, continued = region.start, region.continued
        for at in sorted(place for place in forks if place < region.stop):
            if at > start:
                _add_turn(made, branch.text, marks, _Region(start, at, region.role, continued))
                start, continued = at, True
            made.items.append(Forks(forks.pop(at)))
        _add_turn(made, branch.text, marks, _Region(start, region.stop, region.role, continued))
    made.items.extend(Forks(forks[at]) for at in sorted(forks))
    return made


def _add_turn(made: Transcript, text: str, marks: list[tuple[int, int, Piece]], region: _Region) -> None:
    pieces: list[Piece] = []
    at = region.start
    for start, stop, piece in marks:
        begins = start == stop == region.stop  # nothing has come yet
        if begins or (start < region.stop and stop > at):
            if start > at:
                pieces.append(Piece(text[at:start]))
            start, at = max(start, at), min(stop, region.stop)
            pieces.append(Piece(text[start:at], piece.name, piece.step))
    if at < region.stop:
        pieces.append(Piece(text[at : region.stop]))
    if any(piece.written or piece.text.strip() for piece in pieces):
        made.items.append(Turn(region.role, pieces, region.continued))


def _marks(branch: Branch) -> list[tuple[int, int, Piece]]:
    """Return the parts of the text that are variables, as (start, stop, piece)."""
    text, marks, at = branch.text, [], branch.start or 0
    for step in branch.steps:
        value = text[step.start :] if step.text is None else step.text
        if step.failed and not value:
            continue
        if step.start >= at and text.startswith(value, step.start):
            at = step.start + len(value)
            marks.append((step.start, at, Piece(value, step.name, step)))
        elif branch.finished:
            return _marks_of_values(branch)  # a speculative call writes what later ones take
    return marks if branch.steps else _marks_of_values(branch)


def _marks_of_values(branch: Branch) -> list[tuple[int, int, Piece]]:
    """Find the variables' values in the text, in their order."""
    marks, at = [], branch.start or 0
    steps = {step.name: step for step in branch.steps if step.name is not None}
    for name, value in list(branch.variables.items()):
        start = branch.text.find(value, at) if isinstance(value, str) and value else -1
        if start >= 0:
            at = start + len(value)
            marks.append((start, at, Piece(value, name, steps.get(name))))
    return marks


def _regions(branch: Branch) -> Iterator[_Region]:
    """Cut the text into turns, without the text that the chat template puts around them."""
    at, begin = 0, branch.start or 0
    for region, after in _turns(branch):
        if region.stop > begin or region.start >= begin:
            start = max(region.start, begin)
            yield _Region(start, region.stop, region.role, bool(branch.start) and region.start < start)
        at = after
    if at < len(branch.text):
        yield _Region(max(at, begin), len(branch.text))


def _turns(branch: Branch) -> Iterator[tuple[_Region, int]]:
    """Yield the text of each role, and where the template goes on after it."""
    text, at = branch.text, 0
    messages = list(branch.messages)
    for number, message in enumerate(messages):
        role, content = str(message["role"]), _content(message)
        prefix, suffix = branch.chat_template.get_prefix_and_suffix(role, messages[:number])
        start = text.find(prefix, at)
        start = text.find(content, at if start < 0 else start + len(prefix))
        if start < 0:
            return
        before = text.rfind(prefix, at, start) if prefix else start
        if before > at:
            yield _Region(at, before), before
        stop = start + len(content)
        at = stop + len(suffix) if text.startswith(suffix, stop) else stop
        yield _Region(start, stop, role), at
    if branch.role is not None and branch.role_start is not None and branch.role_start >= at:
        prefix = branch.chat_template.get_prefix_and_suffix(branch.role, messages)[0]
        before = branch.role_start - len(prefix)
        if before > at:
            yield _Region(at, before), before
        yield _Region(branch.role_start, len(text), branch.role), len(text)


def _content(message: dict[str, object]) -> str:
    content = message["content"]
    if isinstance(content, list):
        return str(content[0]["text"])  # the rest are images
    return str(content)
