"""Groups of requests whose times to first token differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from nbruntime.profiling.records import RequestRecord

SMALLEST = 5
"""Fewest requests of a group."""

TELLING = 0.25
"""A split is shown if it explains this share of the variance of the times' ranks."""


@dataclass(frozen=True, slots=True)
class Group:
    """Requests that have something in common: its name, and their times to first token in seconds."""

    name: str
    ttft: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Split:
    """Groups by one property, and the share of the variance of the times' ranks that they explain."""

    by: str
    groups: list[Group]
    share: float


def telling_split(requests: Sequence[RequestRecord]) -> Split | None:
    """Return the split by cached share or by prompt length that explains most; None if neither says enough.

    The requests are those with a time to first token.
    """
    ttft = np.array([request.ttft for request in requests], np.float64)
    lengths = np.array([request.prompt_tokens for request in requests], np.float64)
    cached = np.array([request.cached_tokens for request in requests], np.float64)
    shares = cached / np.maximum(lengths, 1)
    splits = [
        _split("cached share of the prompt", ttft, _cached_classes(shares)),
        _split("prompt length", ttft, _length_classes(lengths)),
    ]
    telling = [split for split in splits if split is not None and split.share >= TELLING]
    return max(telling, key=lambda split: split.share, default=None)


def _cached_classes(shares: NDArray[np.float64]) -> list[tuple[str, NDArray[np.bool_]]]:
    return [
        ("nothing cached", shares < 0.01),
        ("less than half cached", (shares >= 0.01) & (shares < 0.5)),
        ("half or more cached", shares >= 0.5),
    ]


def _length_classes(lengths: NDArray[np.float64]) -> list[tuple[str, NDArray[np.bool_]]]:
    """Divide at powers of four, as prompts' lengths differ by factors."""
    known = lengths[lengths > 0]
    if not len(known):
        return []
    bounds = [float(4**power) for power in range(13)]
    classes = []
    for low, high in pairwise(bounds):
        within = (lengths > low) & (lengths <= high)
        if within.any():
            classes.append((f"{low + 1:,.0f}–{high:,.0f} tokens", within))
    return classes


def _split(
    by: str, ttft: NDArray[np.float64], classes: Sequence[tuple[str, NDArray[np.bool_]]]
) -> Split | None:
    """Return the split without groups that are too small; None if fewer than two remain."""
    large = [(name, within) for name, within in classes if within.sum() >= SMALLEST]
    if len(large) < 2:
        return None
    inside = np.any([within for _, within in large], axis=0)
    ranks = np.full(len(ttft), np.nan)
    ranks[inside] = np.argsort(np.argsort(ttft[inside], kind="stable"), kind="stable")
    total = float(np.nanvar(ranks)) * inside.sum()
    rest = sum(float(np.var(ranks[within])) * within.sum() for _, within in large)
    return Split(by, [Group(name, np.sort(ttft[within])) for name, within in large], 1 - rest / total)
