"""Formats times, rates and counts, the same in every output."""

from __future__ import annotations

import time

__all__ = ["duration", "elapsed", "percent", "rate", "time_of_day", "token_count"]


def duration(seconds: float, digits: int = 3) -> str:
    """Format a measured time with its unit, in ms below a second.

    Examples
    --------
    >>> [duration(seconds) for seconds in (0.2741, 0.9996, 3.456, 1234.5)]
    ['274 ms', '1 s', '3.46 s', '1,230 s']
    """
    rounded = float(f"{seconds:.{digits}g}")
    value, unit = (rounded, "s") if rounded >= 1 else (float(f"{seconds * 1000:.{digits}g}"), "ms")
    return f"{value:g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"


def elapsed(seconds: float) -> str:
    """Format a time span in its two largest units.

    Examples
    --------
    >>> [elapsed(seconds) for seconds in (0.4, 75, 7300, 200000)]
    ['0 s', '1 min 15 s', '2 h 1 min', '2 d 7 h']
    """
    whole = int(seconds)
    for size, unit, smaller, smaller_unit in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {smaller_unit}" if rest else "")
    return f"{whole} s"


def time_of_day(moment: float, *, day: bool = False) -> str:
    """Format a time from `time.time`; with its date if `day` or if it is not today."""
    then = time.localtime(moment)
    today = time.localtime()[:3] == then[:3]
    return time.strftime("%H:%M:%S" if today and not day else "%Y-%m-%d %H:%M:%S", then)


def rate(per_second: float) -> str:
    """Format a rate with three digits, without its unit, such as "9.16" or "1,760"."""
    rounded = float(f"{per_second:.3g}")
    return f"{rounded:g}" if rounded < 1000 else f"{rounded:,.0f}"


def percent(share: float) -> str:
    """Format a share in percent, such as "0.4 %" or "37 %"."""
    value = share * 100
    return f"{value:.0f} %" if value >= 10 else f"{round(value, 1):g} %"


def token_count(tokens: int) -> str:
    """Format a number of tokens with its unit, such as "20,140 tokens"."""
    return f"{tokens:,} token" + ("" if tokens == 1 else "s")
