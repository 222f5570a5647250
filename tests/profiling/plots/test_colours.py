"""The colours of plots can be told apart, also with other colour vision."""

from __future__ import annotations

from dataclasses import astuple
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from nbruntime.profiling.plots.colours import COLOURS, Theme

Floats = NDArray[np.float64]

VISION = {
    "common": np.eye(3),
    # Machado, Oliveira, Fernandes 2009, severity 1, on linear RGB.
    "without red": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "without green": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "without blue": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = np.array([0.9505, 1.0, 1.089])


def linear(colour: str) -> Floats:
    values = np.array(to_rgb(colour))
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: Floats) -> Floats:
    """Convert linear RGB into CIELAB, where distances are about those that people see."""
    relative = TO_XYZ @ rgb.clip(0, 1) / WHITE
    f = np.where(relative > 0.008856, np.cbrt(relative), 7.787 * relative + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(colour: str, other: str) -> float:
    """Return WCAG's contrast, from 1 to 21."""
    low, high = sorted(float(TO_XYZ[1] @ linear(each)) for each in (colour, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("theme", COLOURS)
def test_hues_can_be_told_apart(theme: Theme, vision: str) -> None:
    seen = [lab(VISION[vision] @ linear(hue)) for hue in COLOURS[theme].hues]
    assert min(float(np.linalg.norm(one - other)) for one, other in combinations(seen, 2)) > 13


@pytest.mark.parametrize("theme", COLOURS)
def test_texts_and_hues_stand_out_from_the_page(theme: Theme) -> None:
    colours = COLOURS[theme]
    assert contrast(colours.ink, colours.background) > 12
    assert contrast(colours.quiet, colours.background) > 4.5
    assert min(contrast(hue, colours.background) for hue in colours.hues) > 2


@pytest.mark.parametrize("theme", COLOURS)
def test_no_two_colours_are_equal(theme: Theme) -> None:
    every: tuple[Any, ...] = astuple(COLOURS[theme])
    assert len(set(every)) == len(every)
