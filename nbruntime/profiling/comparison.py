"""Two profiles side by side, and whether they differ by more than their requests do among themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nbruntime.display.cards import Card, CardMixin, Details, table, text_table
from nbruntime.display.html import escape
from nbruntime.display.numbers import duration, percent, rate
from nbruntime.profiling.confidence import FEWEST, LEVEL, difference_interval
from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.records import RequestRecord
from nbruntime.profiling.summary.summary import summary

if TYPE_CHECKING:
    from nbruntime.profiling.plots.figure import Figure

HOW_JUDGED = (
    f"A difference of medians is beyond the spread if its {LEVEL:.0%} interval leaves out zero. The interval "
    "is a bootstrap: the requests of each side are drawn anew. Two runs on a busy machine may differ for "
    "other reasons."
)


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of two profiles.

    Parameters
    ----------
    name : str
        The figure, with its kind of average.
    first, second : float or None
        Its values; seconds, counts, rates or shares.
    unit : str
        ``"s"``, ``"tokens/s"``, ``"share"`` or empty.
    beyond_spread : bool or None
        Whether the difference is more than chance; None if that cannot be told.
    interval : tuple of (float, float) or None
        Bounds of the difference, second minus first.
    """

    name: str
    first: float | None
    second: float | None
    unit: str = ""
    beyond_spread: bool | None = None
    interval: tuple[float, float] | None = None

    @property
    def change(self) -> float | None:
        """Relative change from the first to the second: 0.5 is half as much again."""
        if self.first is None or self.second is None or self.first == 0:
            return None
        return self.second / self.first - 1

    def written(self, value: float | None) -> str:
        """Write a value with its unit."""
        if value is None:
            return "–"
        match self.unit:
            case "s":
                return duration(value)
            case "share":
                return percent(value)
            case _:
                return f"{rate(value)} {self.unit}".strip()

    @property
    def word(self) -> str:
        """Say what the spread supports."""
        if self.beyond_spread is None:
            return ""
        if not self.beyond_spread:
            return "within the spread"
        return "lower" if (self.change or 0.0) < 0 else "higher"


@dataclass(frozen=True, repr=False)
class Comparison(CardMixin):
    """Two profiles side by side.

    Parameters
    ----------
    first, second : ProfileData
        The profiles.
    names : tuple of (str, str)
        What they are called.
    """

    first: ProfileData
    second: ProfileData
    names: tuple[str, str] = ("a", "b")

    @cached_property
    def differences(self) -> list[Difference]:
        """The figures of both, and their differences."""
        return list(_differences(self.first, self.second))

    @cached_property
    def sentences(self) -> list[str]:
        """What is different beyond the spread, a sentence each."""
        found = [each for each in self.differences if each.beyond_spread]
        if found:
            return [self._sentence(each) for each in found]
        judged = any(each.beyond_spread is not None for each in self.differences)
        if judged:
            return ["No latency differs by more than the requests differ among themselves."]
        return [f"Too few finished requests to judge a difference: it takes {FEWEST} on each side."]

    def plot(self, **options: Any) -> Figure:
        """Draw both side by side; ``theme`` is ``"light"``, ``"dark"``, or by default the notebook's."""
        from nbruntime.profiling.plots.comparison import plot_comparison

        return plot_comparison(self.first, self.second, names=self.names, **options)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures of both and their differences as a dict that JSON takes."""
        return {
            "names": list(self.names),
            "differences": [
                {
                    "name": each.name,
                    "unit": each.unit,
                    "first": each.first,
                    "second": each.second,
                    "change": each.change,
                    "beyond_spread": each.beyond_spread,
                    "interval": None if each.interval is None else list(each.interval),
                }
                for each in self.differences
            ],
        }

    def __repr__(self) -> str:
        return self._card().text()

    def _card(self) -> Card:
        known = [each for each in self.differences if each.first is not None or each.second is not None]
        rows = [
            ["", *self.names, "change", ""],
            *(
                [
                    each.name,
                    each.written(each.first),
                    each.written(each.second),
                    _change(each),
                    each.word,
                ]
                for each in known
            ),
        ]
        said = "".join(f"<div>{escape(sentence)}</div>" for sentence in self.sentences)
        plain = [f"  {sentence}" for sentence in self.sentences]
        plain += [f"  {line}" for line in text_table(rows).splitlines()]
        return Card(
            "Comparison",
            f"of {self.names[0]} and {self.names[1]}",
            body=f"{said}{table(rows, heads=True)}",
            plain="\n".join(plain),
            details=[
                Details(f"summary of {self.names[0]}", text="\n".join(summary(self.first).sentences)),
                Details(f"summary of {self.names[1]}", text="\n".join(summary(self.second).sentences)),
                Details("how differences are judged", text=HOW_JUDGED),
            ],
        )

    def _sentence(self, each: Difference) -> str:
        change = each.change
        by = "" if change is None else f"{percent(abs(change))} "
        return (
            f"{each.name[0].upper()}{each.name[1:]} is {by}{each.word} in {self.names[1]}: "
            f"{each.written(each.second)} instead of {each.written(each.first)}."
        )


def _differences(first: ProfileData, second: ProfileData) -> Iterable[Difference]:
    one, other = first.figures, second.figures
    for name, of_request in _LATENCIES.items():
        values = _of_requests(one.measured, of_request), _of_requests(other.measured, of_request)
        medians = [float(np.median(each)) if len(each) else None for each in values]
        interval = difference_interval(*values, 0.5)
        beyond = None if interval is None else interval[0] > 0 or interval[1] < 0
        yield Difference(name, medians[0], medians[1], "s", beyond, interval)
    yield Difference("p90 TTFT", one.ttft.quantile(0.9), other.ttft.quantile(0.9), "s")
    yield Difference("p99 ITL", one.itl.quantile(0.99), other.itl.quantile(0.99), "s")
    yield Difference("throughput", one.token_rate, other.token_rate, "tokens/s")
    yield Difference("concurrency", one.concurrency, other.concurrency)
    yield Difference("cache hits", one.cache_hit_share, other.cache_hit_share, "share")
    yield Difference("prompt tokens", float(one.prompt_tokens), float(other.prompt_tokens))
    yield Difference("new tokens", float(one.completion_tokens), float(other.completion_tokens))
    yield Difference("finished requests", float(one.finished), float(other.finished))
    yield Difference("failed requests", float(one.failed), float(other.failed))


def _mean_gap(request: RequestRecord) -> float | None:
    return float(np.mean(request.itl)) if request.itl else None


_LATENCIES: dict[str, Callable[[RequestRecord], float | None]] = {
    "median TTFT": lambda request: request.ttft,
    "median ITL of requests": _mean_gap,
    "median TPOT": lambda request: request.tpot,
    "median E2E": lambda request: request.e2e,
}


def _of_requests(
    requests: Iterable[RequestRecord], figure: Callable[[RequestRecord], float | None]
) -> NDArray[np.float64]:
    return np.array([value for each in requests if (value := figure(each)) is not None], float)


def _change(each: Difference) -> str:
    if each.unit == "share" and each.first is not None and each.second is not None:
        points = (each.second - each.first) * 100
        return f"{_sign(points)}{rate(abs(points))} points"
    return "" if each.change is None else f"{_sign(each.change)}{percent(abs(each.change))}"


def _sign(number: float) -> str:
    return "−" if number < 0 else "+"
