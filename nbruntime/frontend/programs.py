"""Records of what programs of the frontend language asked of a backend, kept while their states live.

SGLang's interpreter keeps a program's text, but not which parts the model wrote, how long that took, the
choices, or the forks. The backend records these here for a view (`nbruntime.notebook.views.program`). The
interpreter's objects are only read.
"""

from __future__ import annotations

import contextlib
import re
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nbruntime.errors import NbruntimeError
from nbruntime.generation import Generation


@dataclass(eq=False)
class Step:
    """One call of the model: a ``gen`` or a ``select``.

    Its text begins at `start` in the text of the state. `text` and `seconds` are None while it runs, `name`
    until the variable is known. `meta_info` is the interpreter's own object, which identifies the variable.
    """

    kind: Literal["gen", "select"]
    start: int
    choices: tuple[str, ...] = ()
    text: str | None = None
    meta_info: Any = None
    generations: list[Generation] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)
    seconds: float | None = None
    failed: bool = False
    name: str | None = None

    def set_answers(self, generations: Sequence[Generation], meta_info: Any) -> None:
        """Record the answers of a ``gen``."""
        self.generations = list(generations)
        self.text = generations[0].text
        self.meta_info = meta_info

    def set_decision(self, decision: Any) -> None:
        """Record the decision of a ``select``."""
        self.text = decision.decision
        self.meta_info = decision.meta_info


class Branch:
    """The record of one state of the interpreter: of a program, or of one of its forks.

    Attributes
    ----------
    start : int or None
        Where in the text it was forked off; None for a program.
    number : int
        Rank in the order of creation.
    messages, variables, meta_info
        The interpreter's own objects.
    text, finished, role, role_start
        The state at the last `look`; `role` is the open one, which begins at `role_start`.
    failure : tuple of str
        The lines of the error that ended it; the error itself would keep the state alive.
    """

    def __init__(self, s: Any) -> None:
        self._executor = weakref.ref(s)
        self.start: int | None = getattr(s, "fork_start_text_pos", None)
        self.number = _number(s)
        self.steps: list[Step] = []
        # The interpreter changes these in place, so they stay current when the state is gone.
        self.messages: list[dict[str, Any]] = s.messages_
        self.variables: dict[str, Any] = s.variables
        self.meta_info: dict[str, Any] = s.meta_info
        self.chat_template = s.chat_template
        self.text = ""
        self.finished = False
        self.failure: tuple[str, ...] = ()
        self.role: str | None = None
        self.role_start: int | None = None
        self.look(s)

    def look(self, s: Any = None) -> None:
        """Update from the state, if it still exists."""
        self.name_steps()
        s = self._executor() if s is None else s
        if s is None:
            self.finished = True
            return
        self.finished = _is_done(s)
        self.failure = () if s.error_ is None else _error_lines(s.error_)
        self.role, self.role_start = s.cur_role, s.cur_role_begin_pos
        self.text = s.text_

    def name_steps(self) -> None:
        """Find the variable of each step; before each new one, which may reuse a name."""
        known = list(self.meta_info.items())
        for step in self.steps:
            if step.name is None and step.meta_info is not None:
                step.name = next((name for name, info in known if info is step.meta_info), None)

    @property
    def running(self) -> bool:
        """True if more is to come, as far as the interpreter says.

        A fork is open until it is joined; it runs while its queue is not empty.
        """
        s = self._executor()
        if s is None or _is_done(s):
            return False
        return self.start is None or s.queue.unfinished_tasks > 0

    @property
    def images(self) -> list[tuple[str, str]]:
        """The state's images as (path, base64 text)."""
        s = self._executor()
        return [] if s is None else list(s.images_)


class Program:
    """The branches of a program, its own and its forks'; all of them share one `arguments` dict."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.arguments = arguments  # kept, so that no other object gets its id
        self._living: dict[int, Branch] = {}
        self._ended: list[Branch] = []
        self._forks: dict[Branch | None, list[Branch]] = {}

    @property
    def alive(self) -> bool:
        """True if any of its states still exists."""
        return bool(self._living)

    def look(self) -> None:
        """Update all branches, and find the parent of each fork.

        The interpreter does not record it: a fork begins with its parent's text, and the parent is the branch
        that shares most messages and values. If a batch shares one dict, this may be ambiguous: no parent.
        """
        branches = self.branches
        for branch in branches:
            branch.look()
        self._forks = {}
        for branch in branches:
            if branch.start is not None:
                self._forks.setdefault(_parent(branch, branches), []).append(branch)

    @property
    def branches(self) -> list[Branch]:
        """All branches that have called the model, in the order of creation."""
        return sorted([*self._living.values(), *self._ended], key=lambda branch: branch.number)

    def branch(self, s: Any) -> Branch | None:
        """Return the branch of a living state."""
        return self._living.get(id(s))

    def children(self, of: Branch) -> list[Branch]:
        """Return the forks of a branch, as of the last `look`."""
        return self._forks.get(of, [])

    def add(self, s: Any) -> Branch:
        """Return the branch of a state; a new one at its first call."""
        branch = self._living.get(id(s))
        if branch is None:
            branch = self._living.setdefault(id(s), Branch(s))
            # No lock here and below: garbage collection may run anywhere.
            gone = weakref.finalize(s, self._state_deleted, id(s))
            gone.atexit = False
        return branch

    def _state_deleted(self, name: int) -> None:
        branch = self._living.pop(name, None)
        if branch is not None:
            branch.look()
            self._ended.append(branch)
        if self._living:
            return
        if all(each.start is not None for each in self._ended):
            # Forks may come and go before the program itself has called the model.
            _without_root.append(self)
            if len(_without_root) <= LARGEST_BATCH:
                return
            _forget(_without_root.popleft())
        else:
            _forget(self)


LARGEST_BATCH = 256
"""Most kept programs whose forks have ended and which have not called the model themselves."""

_programs: dict[int, Program] = {}
_without_root: deque[Program] = deque()


def _forget(program: Program) -> None:
    with contextlib.suppress(ValueError):
        _without_root.remove(program)
    if not program.alive:
        _programs.pop(id(program.arguments), None)


def program_of(s: Any) -> Program | None:
    """Return the record of a state's program; None if it has not called a model through this package."""
    return _programs.get(id(getattr(s, "arguments", None)))


@contextlib.contextmanager
def record_step(s: Any, kind: Literal["gen", "select"], choices: Sequence[str] = ()) -> Iterator[Step]:
    """Record a call of the model while it runs; the caller fills in the result."""
    step = Step(kind, len(s.text_), tuple(choices))
    if hasattr(s, "arguments"):
        branch = _programs.setdefault(id(s.arguments), Program(s.arguments)).add(s)
        branch.name_steps()
        branch.steps.append(step)
    try:
        yield step
    except Exception:
        step.failed = True
        raise
    finally:
        step.seconds = time.perf_counter() - step.began


def record_end(s: Any) -> None:
    """Record the end of a state, which may be its deletion."""
    program = program_of(s)
    if program is None:
        return
    branch = program.branch(s)
    if branch is None and s.fork_start_text_pos is None:
        branch = program.add(s)  # only its forks have called the model
    if branch is not None:
        branch.look(s)


def _is_done(s: Any) -> bool:
    """Return whether a state is done; one without a thread always is when it can be looked at."""
    return s.is_finished or not s.use_thread


def _error_lines(error: BaseException) -> tuple[str, ...]:
    """Write an error as it is shown, with the type of one that is not ours."""
    text = str(error) if isinstance(error, NbruntimeError) else f"{type(error).__name__}: {error}"
    return tuple(text.split("\n"))


def _number(s: Any) -> int:
    """Return a state's rank in the order of creation, from the default name of its thread."""
    found = re.match(r"Thread-(\d+)", getattr(getattr(s, "worker", None), "name", ""))
    return int(found[1]) if found else 0


def _parent(fork: Branch, branches: Sequence[Branch]) -> Branch | None:
    start = fork.start or 0
    own = {id(value) for value in (*fork.messages, *fork.variables.values())}
    best: list[Branch] = []
    most = (-1, -1)
    for each in branches:
        if each is fork or (each.start is not None and each.start >= start):
            continue
        if each.text[:start] != fork.text[:start]:
            continue
        shared = sum(id(value) in own for value in (*each.messages, *each.variables.values()))
        match = (shared, -1 if each.start is None else each.start)
        if match >= most:
            best = [each] if match > most else [*best, each]
            most = match
    return best[0] if len(best) == 1 or (best and best[0].start is not None) else None
