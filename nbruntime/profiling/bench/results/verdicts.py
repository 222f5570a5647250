"""Whether runs of a load test held their thresholds, and up to which load."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from nbruntime.display.numbers import rate
from nbruntime.profiling.bench.results.causes import Cause, cause_of
from nbruntime.profiling.bench.results.run_figures import RunFigures
from nbruntime.profiling.bench.results.saturation import queue_growth, wait_for_places
from nbruntime.profiling.bench_run import BenchRun


@dataclass(frozen=True)
class Verdict:
    """Whether one run held its thresholds.

    Parameters
    ----------
    figures : RunFigures
        Its figures.
    held : bool or None
        Whether enough requests met every threshold, the queue did not grow, and requests did not wait for
        a place; None if too few requests were judged to tell.
    cause : Cause or None
        Why not.
    """

    figures: RunFigures
    held: bool | None
    cause: Cause | None = None

    @property
    def run(self) -> BenchRun:
        """The run."""
        return self.figures.run


@dataclass(frozen=True)
class Capacity:
    """Up to which load one server held the thresholds.

    Parameters
    ----------
    verdicts : sequence of Verdict
        At least one, of runs of one kind, by load.
    """

    verdicts: Sequence[Verdict]

    @property
    def best(self) -> Verdict | None:
        """The largest load that held below the first that did not; None if there is none."""
        held = [each for each in takewhile(lambda each: each.held is not False, self.verdicts) if each.held]
        return held[-1] if held else None

    @property
    def beyond(self) -> Verdict | None:
        """The smallest load that did not hold, else the smallest above `best` that cannot be judged."""
        failed = next((each for each in self.verdicts if each.held is False), None)
        above = self.verdicts[self.verdicts.index(self.best) + 1 :] if self.best else self.verdicts
        return failed or next((each for each in above if each.held is None), None)

    @property
    def again(self) -> Verdict | None:
        """A load above one that did not hold, which held: the figures are noisy."""
        seen = False
        for each in self.verdicts:
            if each.held and seen:
                return each
            seen = seen or each.held is False
        return None


def fewest_requests(share: float) -> int:
    """Return how many requests are needed to judge a share: as many as allow one miss, at least 5.

    Examples
    --------
    >>> fewest_requests(0.9), fewest_requests(0.99)
    (10, 100)
    """
    return max(math.ceil(1 / (1 - share) - 1e-9), 5) if share < 1 else 5


def judge(figures: RunFigures, share: float) -> Verdict:
    """Judge whether at least a share of the requests of a run met its thresholds."""
    judged, attained = figures.met + figures.missed, figures.attainment
    if attained is None or judged < fewest_requests(share):
        return Verdict(figures, None)
    held = attained >= share and queue_growth(figures) is None and wait_for_places(figures) is None
    return Verdict(figures, held, None if held else cause_of(figures, share))


def capacities(verdicts: Iterable[Verdict]) -> list[Capacity]:
    """Return the capacity for each server and kind of loop, in the order of their first runs."""
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for each in verdicts:
        groups.setdefault((each.run.label, each.run.loop), []).append(each)
    return [Capacity(sorted(group, key=lambda each: load_of(each.run))) for group in groups.values()]


def load_of(run: BenchRun) -> float:
    """Return the users of a closed loop, or the requests per second of an open one.

    Of a recorded workload they are those that were sent.
    """
    if run.loop == "closed":
        return math.nan if run.concurrency is None else float(run.concurrency)
    if run.rate is not None:
        return run.rate
    span = max(each.sent for each in run.requests) - run.started if run.requests else 0.0
    return len(run.requests) / span if span > 0 else math.nan


def load_in_words(run: BenchRun) -> str:
    """Write the load of a run, such as "6 users", "2.4 requests/s" or "64 requests"."""
    load = load_of(run)
    if run.loop == "closed":
        return f"{load:g} user{'' if load == 1 else 's'}"
    if run.rate is None:
        return f"{run.settings.get('replay') or 'the recorded workload'}"
    if math.isinf(load):
        return f"{len(run.requests)} request{'' if len(run.requests) == 1 else 's'}"
    return f"{rate(load)} requests/s"
