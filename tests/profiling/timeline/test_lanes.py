"""Lanes of spans that overlap."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from nbruntime.profiling.timeline.lanes import lanes


def test_lanes_are_few_and_hold_no_overlap() -> None:
    random = np.random.default_rng(0)
    starts = np.sort(random.uniform(0, 100, 500))
    lengths = random.exponential(2, 500)
    spans = [(float(start), float(start + length)) for start, length in zip(starts, lengths, strict=True)]
    chosen = lanes(spans)
    most = max(sum(start <= at < end for start, end in spans) for at, _ in spans)
    assert max(chosen) + 1 == most
    for lane in set(chosen):
        inside = [span for span, place in zip(spans, chosen, strict=True) if place == lane]
        assert all(before[1] <= after[0] for before, after in pairwise(inside))
    assert lanes([]) == []
