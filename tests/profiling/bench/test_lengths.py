"""Lengths of prompts and answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nbruntime.errors import ArgumentTypeError, ArgumentValueError
from nbruntime.profiling.bench.lengths import LengthSampler


def draw(given: Any, count: int = 2000) -> list[int]:
    return LengthSampler("prompt_tokens", given).draw(np.random.default_rng(7), count)


def test_a_number_is_always_the_same() -> None:
    assert draw(256, 3) == [256, 256, 256]


def test_a_range_is_uniform_and_has_both_ends() -> None:
    drawn = draw((10, 19))
    assert set(drawn) == set(range(10, 20))
    assert np.mean(drawn) == pytest.approx(14.5, abs=0.3)


def test_lengths_are_drawn_from_an_array() -> None:
    assert set(draw(np.array([3, 5, 8]))) == {3, 5, 8}
    assert set(draw([3, 5])) == {3, 5}


def test_a_function_and_a_distribution_draw_lengths() -> None:
    class Distribution:
        def rvs(self, *, size: int, random_state: np.random.Generator) -> Any:
            return random_state.lognormal(5, 0.5, size)

    assert np.median(draw(Distribution())) == pytest.approx(np.exp(5), rel=0.05)
    assert min(draw(lambda random: random.normal(2, 5))) == 1


def test_the_same_seed_draws_the_same() -> None:
    assert draw((1, 1000)) == draw((1, 1000))


@pytest.mark.parametrize("given", ["256", None, True, 2.5, [], ["a"], {"a": 1}, (1, 2, "x")])
def test_other_things_are_refused(given: object) -> None:
    with pytest.raises(ArgumentTypeError, match="prompt_tokens"):
        draw(given)


def test_impossible_lengths_are_refused() -> None:
    with pytest.raises(ArgumentValueError, match="prompt_tokens is 0"):
        draw(0)
    with pytest.raises(ArgumentValueError, match="from 20 down to 10"):
        draw((20, 10))
    with pytest.raises(ArgumentValueError, match="one for each request"):
        draw(lambda _: float("nan"))
    with pytest.raises(ArgumentTypeError, match="not a number"):
        draw(lambda _: "many")
