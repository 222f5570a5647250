"""Where a generation asks for the steps of its server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nbruntime.errors import ArgumentTypeError, NbruntimeError, NotFoundError
from nbruntime.generation.answer_times import AnswerTimes
from nbruntime.protocol.step_log import Step, StepLog

AskForSteps = Callable[[float, float | None], Sequence[Step]]
"""Returns the server's steps from one time to another by its clock, or to now; raises a `NbruntimeError`."""


@dataclass(frozen=True, slots=True)
class StepSource:
    """Asks the server of an answer for its steps."""

    ask: AskForSteps
    siblings: int = 0  # other answers of the same request


UNKNOWN = "what other requests did is not known"


def ask_for_steps(source: StepSource | None, answer: AnswerTimes) -> tuple[Sequence[Step], list[str]]:
    """Return the steps of the time of an answer, or why there are none; a failure is no error."""
    queued_from = None if answer.entered is None else answer.entered - answer.queue_time
    since = queued_from if answer.received is None else answer.received
    if since is None:
        return (), []  # a server that sends no times keeps no log either
    if source is None:
        return (), [f"This record has no connection to its server, so {UNKNOWN}."]
    try:
        steps = source.ask(since, answer.finished)
        lost = not steps and answer.entered is not None  # or the server is another one by now
        return steps, [f"The server's log holds no step of that time anymore, so {UNKNOWN}."] if lost else []
    except NotFoundError:
        return (), [f"The server keeps no log of its steps, so {UNKNOWN}."]
    except NbruntimeError as error:
        return (), [f"The server's step log cannot be read, so {UNKNOWN}: {error.message}"]


def checked_steps(steps: StepLog | Sequence[Step]) -> Sequence[Step]:
    """Return the steps that a caller has given."""
    given = steps.steps if isinstance(steps, StepLog) else steps
    if isinstance(given, Sequence) and all(isinstance(step, Step) for step in given):
        return given
    raise ArgumentTypeError(
        f"The steps are no list of Step, but a {type(steps).__name__}",
        where="steps",
        hint="Give profile.steps, or read_step_log() of the answer of /step_log.",
    )
