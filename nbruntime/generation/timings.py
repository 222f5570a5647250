"""Times of a generation, measured by the client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from nbruntime.display.numbers import rate


@dataclass(frozen=True, slots=True)
class Timings:
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
        Timings(total=1.0, ttft=0.5, itl=(0.25, 0.25))
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
