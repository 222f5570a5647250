"""Progress of a server's launch."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from nbruntime.display.cards import Card, CardMixin, Tone

__all__ = ["ENDED_PHASES", "FETCHING", "Phase", "Phases", "bar", "phase_of", "tone_of"]

_log = logging.getLogger(__name__)

ENDED_PHASES = ("stopped", "died")
"""Phases of a Runtime whose server no longer runs."""

FETCHING = frozenset({"downloading", "converting", "waiting"})
"""Phases that take as long as the network does; the launch time-out does not count them."""

_FINAL_TONES: dict[str, Tone] = {
    "ready": "good",
    "stopped": "idle",
    "died": "bad",
    "failed": "bad",
    "interrupted": "idle",
}

_LINE = re.compile(
    r"^phase: (?P<name>[A-Za-z][A-Za-z -]*?)"
    r"(?: (?P<done>\d+(?:\.\d+)?)(?:/(?P<total>\d+(?:\.\d+)?))?(?: (?P<unit>\S+))?)?\s*$"
)


@dataclass(frozen=True, slots=True)
class Phase(CardMixin):
    """A phase of a launch, with its progress where that is known.

    Parameters
    ----------
    name : str
        ``starting``, ``downloading``, ``converting``, ``loading weights``, ``warming up`` or ``ready``, and
        at the end ``stopped`` or ``died``.
    done, total : float or None
        Progress in `unit`; the total may be unknown.
    unit : str
        Such as ``MB``; may be empty.

    Examples
    --------
    >>> print(Phase("downloading", 12.1, 92.9, "MB"))
    downloading 12.1/92.9 MB
    """

    name: str
    done: float | None = None
    total: float | None = None
    unit: str = ""

    def _card(self) -> Card:
        return Card("Phase", state=str(self), tone=tone_of(self.name), body=bar(self))

    def __str__(self) -> str:
        if self.done is None:
            return self.name
        total = "" if self.total is None else f"/{self.total:g}"
        return f"{self.name} {self.done:g}{total} {self.unit}".rstrip()


def tone_of(phase: str) -> Tone:
    """Return the tone in which a card shows a phase, by its name."""
    return _FINAL_TONES.get(phase, "busy")


def bar(phase: Phase) -> str:
    """Draw a progress bar as HTML; empty if the phase has no total."""
    if phase.done is None or not phase.total:
        return ""
    share = min(max(phase.done / phase.total, 0.0), 1.0)
    return (
        '<div class="nbr-busy" role="progressbar" aria-valuemin="0" aria-valuemax="100"'
        f' aria-valuenow="{share * 100:.0f}" style="max-width:30em;height:3px;margin:.35em 0;'
        'background:rgba(128,128,128,.25)">'
        f'<div style="width:{share * 100:.1f}%;height:3px;background:currentColor"></div></div>'
    )


def phase_of(line: str) -> Phase | None:
    """Parse a progress line of the embedded server; None for any other line.

    Examples
    --------
    >>> phase_of("phase: downloading 12.1/92.9 MB")
    Phase(name='downloading', done=12.1, total=92.9, unit='MB')
    """
    match = _LINE.match(line)
    if match is None:
        return None
    done, total = (None if match[key] is None else float(match[key]) for key in ("done", "total"))
    return Phase(match["name"], done, total, match["unit"] or "")


class Phases:
    """The phases of one server, for any number of observers in any thread.

    Give it to a launch as its ``progress`` to observe that while it runs.

    Examples
    --------
    >>> phases = Phases()
    >>> forget = phases.subscribe(print)
    starting
    >>> phases.enter(Phase("loading weights"))
    loading weights
    >>> forget()
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        # Held while observers are called, so that each sees the phases in their order; an observer may
        # subscribe and forget meanwhile.
        self._lock = threading.RLock()
        self._current = Phase("starting")
        self._history = [("starting", 0.0)]
        self._observers: dict[object, Callable[[Phase], object]] = {}

    @property
    def current(self) -> Phase:
        """The current phase."""
        return self._current

    @property
    def history(self) -> tuple[tuple[str, float], ...]:
        """Name of each phase, and seconds from the beginning until it was entered."""
        return tuple(self._history)

    def subscribe(self, observer: Callable[[Phase], object]) -> Callable[[], None]:
        """Call a function with the current phase and with every later one.

        Parameters
        ----------
        observer : callable
            Called with a `Phase`, in the thread of the launch, which waits for it. Its errors are logged.

        Returns
        -------
        callable
            Ends the subscription.
        """
        key = object()

        def forget() -> None:
            self._observers.pop(key, None)

        with self._lock:
            self._observers[key] = observer
            _tell(observer, self._current)
        return forget

    def enter(self, phase: Phase) -> None:
        """Enter a phase, or update its progress, and tell the observers."""
        with self._lock:
            self._current = phase
            if self._history[-1][0] != phase.name:
                self._history.append((phase.name, time.monotonic() - self._began))
            for observer in list(self._observers.values()):
                _tell(observer, phase)


def _tell(observer: Callable[[Phase], object], phase: Phase) -> None:
    try:
        observer(phase)
    except Exception:  # noqa: BLE001 - whatever an observer raises, it is logged and the launch goes on
        _log.exception("An observer failed at the phase %s", phase)
