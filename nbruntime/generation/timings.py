"""Times of a generation, measured by the client."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from nbruntime.display.cards import Card, CardMixin
from nbruntime.display.charts import CHART_STYLE, strip_chart
from nbruntime.display.numbers import duration, rate


@dataclass(frozen=True, slots=True, repr=False)
class Timings(CardMixin):
    """Times of a generation, measured by the client, in seconds.

    Parameters
    ----------
    total : float or None
        From sending the request to the end.
    ttft : float or None
        Time to first token; None if not streamed.
    itl : tuple of float
        Inter-token latencies, one for each token after the first arrival. Tokens that arrive together
        share the time since the arrival before.
    """

    total: float | None = None
    ttft: float | None = None
    itl: tuple[float, ...] = ()

    @classmethod
    def from_arrivals(
        cls, started: float, arrivals: Sequence[tuple[float, int]], ended: float | None
    ) -> Timings:
        """Compute the record from the times of arrivals and their token counts.

        Examples
        --------
        >>> Timings.from_arrivals(10.0, [(10.5, 1), (11.0, 2)], 11.0)
        Timings
          TTFT 500 ms · ITL mean 250 ms · p50 250 ms · p99 250 ms · max 250 ms · total 1 s
        """
        itl: list[float] = []
        for (before, _), (now, count) in pairwise(arrivals):
            itl.extend([(now - before) / count] * count)
        return cls(
            total=None if ended is None else ended - started,
            ttft=arrivals[0][0] - started if arrivals else None,
            itl=tuple(itl),
        )

    def of_tokens(self, count: int) -> list[float | None]:
        """Return the arrival time of each of `count` tokens, in seconds since the request was sent.

        The times are None if the answer was not streamed.

        Examples
        --------
        >>> Timings(total=1.0, ttft=0.5, itl=(0.25, 0.25)).of_tokens(3)
        [0.5, 0.75, 1.0]
        """
        first = max(count - len(self.itl), 0)  # tokens of the first arrival came at once
        if self.ttft is None:
            return [None] * count
        times: list[float | None] = [self.ttft] * first
        times += list(accumulate(self.itl, initial=self.ttft))[1:]
        return times[:count]

    def __repr__(self) -> str:
        return self._card().text()

    def _card(self) -> Card:
        gaps = sorted(self.itl)
        figures: list[tuple[str, float | None]] = [("TTFT", self.ttft)]
        if gaps:
            mean = sum(gaps) / len(gaps)
            figures += [("ITL mean", mean), ("p50", _quantile(gaps, 0.5)), ("p99", _quantile(gaps, 0.99))]
            figures.append(("max", gaps[-1]))
        figures.append(("total", self.total))
        pairs = [(label, None if value is None else duration(value)) for label, value in figures]
        label = "ITL, token by token"
        strip = strip_chart(label, self.itl, figure=duration) if len(gaps) >= FEWEST_INTERVALS else ""
        return Card(
            "Timings",
            state="" if any(value for _, value in pairs) else "nothing measured",
            pairs=pairs,
            body=strip and f'<style>{CHART_STYLE}</style><div class="nbr-charts">{strip}</div>',
        )


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that at least a share of all do not exceed."""
    return ordered[math.ceil(share * len(ordered)) - 1]


FEWEST_INTERVALS = 3
"""Fewest times between tokens for a rate."""


def decode_rate(intervals: int, duration: float) -> str | None:
    """Write the rate of the tokens after the first one; None if there are too few.

    Examples
    --------
    >>> decode_rate(32, 0.8), decode_rate(1, 0.0001)
    ('40 tokens/s', None)
    """
    if intervals < FEWEST_INTERVALS or duration <= 0:
        return None
    return f"{rate(intervals / duration)} tokens/s"
