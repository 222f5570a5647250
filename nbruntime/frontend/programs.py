"""What programs of the frontend language have asked of a backend, kept as long as their states live.

SGLang's interpreter keeps a program's text, but not where in it the model wrote, how long that took, what
there was to choose from, or which forks it had. A backend sees all that, and notes it here for a view
(`nbruntime.notebook.views.program`). The interpreter's objects are only looked at: nothing is added to them.
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
    """One call of the model.

    Parameters
    ----------
    kind : str
        ``gen`` or ``select``.
    start : int
        Where its text begins in the text of the state.
    choices : tuple of str
        What there was to choose from.

    Attributes
    ----------
    text : str or None
        What it wrote; None while it runs.
    meta_info : object
        What the interpreter got: the very object, which tells the variable's name.
    name : str or None
        The variable, once it is known.
    generations : list of Generation
        The answers of a ``gen``.
    seconds : float or None
        How long it took; None while it runs.
    failed : bool
        Whether it ended by an error.
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

    def wrote(self, generations: Sequence[Generation], meta_info: Any) -> None:
        """Note the answers of a ``gen``."""
        self.generations = list(generations)
        self.text = generations[0].text
        self.meta_info = meta_info

    def chose(self, decision: Any) -> None:
        """Note the decision of a ``select``."""
        self.text = decision.decision
        self.meta_info = decision.meta_info


class Branch:
    """What is known of one state: of a program, or of one of its forks.

    Parameters
    ----------
    s : StreamExecutor
        The interpreter's object; not kept alive.

    Attributes
    ----------
    start : int or None
        Where in the text it was forked off; None for a program.
    number : int
        Forks in the order in which they were made.
    steps : list of Step
        Its calls of the model.
    messages : list of dict
        The conversation so far.
    variables, meta_info : dict
        As the interpreter has them.
    text : str
        What it was when the branch was last looked at; also `finished`, and the `role` that has begun at
        `role_start`.
    failure : tuple of str
        The lines of the error that ended it, if one did. The error itself is not kept: its traceback holds
        the state.
    """

    def __init__(self, s: Any) -> None:
        self._executor = weakref.ref(s)
        self.start: int | None = getattr(s, "fork_start_text_pos", None)
        self.number = _number(s)
        self.steps: list[Step] = []
        # These are changed in place, so they stay right when the state is gone.
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
        """Take in how far the state is, if it is still there."""
        self.name_steps()
        s = self._executor() if s is None else s
        if s is None:
            self.finished = True
            return
        self.finished = _is_over(s)
        self.failure = () if s.error_ is None else _lines(s.error_)
        self.role, self.role_start = s.cur_role, s.cur_role_begin_pos
        self.text = s.text_

    def name_steps(self) -> None:
        """Find out the variables' names; a later step may take the name over, so before each one."""
        known = list(self.meta_info.items())
        for step in self.steps:
            if step.name is None and step.meta_info is not None:
                step.name = next((name for name, info in known if info is step.meta_info), None)

    @property
    def running(self) -> bool:
        """Whether there is more to come, as far as the interpreter says.

        A fork goes on until it is joined; it runs while it has something to do.
        """
        s = self._executor()
        if s is None or _is_over(s):
            return False
        return self.start is None or s.queue.unfinished_tasks > 0

    @property
    def images(self) -> list[tuple[str, str]]:
        """The state's images, as pairs of path and base64 text."""
        s = self._executor()
        return [] if s is None else list(s.images_)


class Program:
    """A program's branches: its own, and its forks' at every depth.

    Parameters
    ----------
    arguments : dict
        The program's arguments: one object, which all of its branches share.
    """

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.arguments = arguments  # kept, so that no other object gets its id
        self._living: dict[int, Branch] = {}
        self._ended: list[Branch] = []
        self._forks: dict[Branch | None, list[Branch]] = {}

    @property
    def alive(self) -> bool:
        """Whether any of its states is."""
        return bool(self._living)

    def look(self) -> None:
        """Take in how far all states are, and which forks are whose.

        Nothing of the interpreter says whose fork a state is. It begins with its parent's text and shares
        the parent's messages and values, so it belongs to the branch with which it shares most. Where
        several states of a batch were given one and the same dict, that may leave a doubt: then to none.
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
        """All branches that have called the model, in the order in which they were made."""
        return sorted([*self._living.values(), *self._ended], key=lambda branch: branch.number)

    def branch(self, s: Any) -> Branch | None:
        """Give the branch of a state that lives."""
        return self._living.get(id(s))

    def children(self, of: Branch) -> list[Branch]:
        """Give the forks of a branch, as of the last look."""
        return self._forks.get(of, [])

    def add(self, s: Any) -> Branch:
        """Give the branch of a state, a new one at its first call."""
        branch = self._living.get(id(s))
        if branch is None:
            branch = self._living.setdefault(id(s), Branch(s))
            # No lock here and below: garbage collection may run in any place.
            gone = weakref.finalize(s, self._gone, id(s))
            gone.atexit = False
        return branch

    def _gone(self, name: int) -> None:
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
"""Programs whose forks have ended, and which have not called the model by themselves: so many are kept."""

_programs: dict[int, Program] = {}
_without_root: deque[Program] = deque()


def _forget(program: Program) -> None:
    with contextlib.suppress(ValueError):
        _without_root.remove(program)
    if not program.alive:
        _programs.pop(id(program.arguments), None)


def program_of(s: Any) -> Program | None:
    """Give what is known of a state's program; None if it has not called the model of an endpoint of ours.

    Parameters
    ----------
    s : StreamExecutor
    """
    return _programs.get(id(getattr(s, "arguments", None)))


@contextlib.contextmanager
def noted(s: Any, kind: Literal["gen", "select"], choices: Sequence[str] = ()) -> Iterator[Step]:
    """Note a call of the model while it runs.

    Parameters
    ----------
    s : StreamExecutor
        The state that calls.
    kind : str
        ``gen`` or ``select``.
    choices : sequence of str
        What there is to choose from.

    Yields
    ------
    Step
        To be told what came.
    """
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


def ended(s: Any) -> None:
    """Note how far a state came; its end may be that it is being deleted."""
    program = program_of(s)
    if program is None:
        return
    branch = program.branch(s)
    if branch is None and s.fork_start_text_pos is None:
        branch = program.add(s)  # its forks have called the model, itself it has not yet
    if branch is not None:
        branch.look(s)


def _is_over(s: Any) -> bool:
    """Whether a state is done; one without a thread is whenever it can be looked at."""
    return s.is_finished or not s.use_thread


def _lines(error: BaseException) -> tuple[str, ...]:
    """Write an error as it is shown: others than ours do not say by themselves what they are."""
    text = str(error) if isinstance(error, NbruntimeError) else f"{type(error).__name__}: {error}"
    return tuple(text.split("\n"))


def _number(s: Any) -> int:
    """Tell when a state was made: its thread's default name counts up."""
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
