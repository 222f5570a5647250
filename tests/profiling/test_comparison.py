"""Two profiles side by side."""

from __future__ import annotations

import json
import random

import pytest
from support.hand_profiles import profile, request
from support.html_checks import HOSTILE, checked

from nbruntime import errors, profiles
from nbruntime.profiling.comparison import FEWEST, Comparison
from nbruntime.profiling.profile import Profile


def with_ttft(median: float, spread: float, count: int = 40) -> Profile:
    """A profile whose requests come to their first token after about `median` seconds, and end after 10."""
    rng = random.Random(f"{median} {spread}")
    return profile(*(request(f"r{n}", n, n + rng.gauss(median, spread), n + 10) for n in range(count)))


def difference(compared: Comparison, name: str) -> tuple[float | None, str]:
    (found,) = (each for each in compared.differences if each.name == name)
    return found.change, found.word


def test_a_difference_beyond_the_spread() -> None:
    compared = profiles.compare(with_ttft(4, 0.1), with_ttft(2, 0.1), names=("before", "after"))
    change, word = difference(compared, "median TTFT")
    assert change == pytest.approx(-0.5, abs=0.03)
    assert word == "lower"
    assert compared.sentences[0].startswith("Median TTFT is 49 % lower in after: 2.0")
    text = checked(compared._repr_mimebundle_())
    assert "before" in text
    assert "−49 %" in text


def test_a_difference_within_the_spread() -> None:
    compared = profiles.compare(with_ttft(4, 2), with_ttft(4.2, 2))
    assert difference(compared, "median TTFT")[1] == "within the spread"
    assert compared.sentences == ["No latency differs by more than the requests differ among themselves."]


def test_a_profile_does_not_differ_from_itself() -> None:
    same = with_ttft(4, 1)
    compared = profiles.compare(same, same)
    assert {each.change for each in compared.differences} <= {0.0, None}
    assert {each.word for each in compared.differences} == {"within the spread", ""}


def test_too_few_requests_are_not_judged() -> None:
    compared = profiles.compare(with_ttft(4, 0.1, FEWEST - 1), with_ttft(2, 0.1))
    assert {each.word for each in compared.differences} == {""}
    assert compared.sentences == ["Too few finished requests to judge a difference: it takes 5 on each side."]
    assert "Comparison of a and b" in repr(profiles.compare(Profile(), Profile()))


def test_to_dict_is_json() -> None:
    record = json.loads(json.dumps(profiles.compare(with_ttft(4, 0.1), with_ttft(2, 0.1)).to_dict()))
    first = record["differences"][0]
    assert (first["name"], first["unit"], first["beyond_spread"]) == ("median TTFT", "s", True)
    low, high = first["interval"]
    assert low < first["second"] - first["first"] < high < 0


def test_shares_differ_by_points() -> None:
    half = profile(request("a", 0, 1, 2, prompt_tokens=10, cached_tokens=5))
    most = profile(request("a", 0, 1, 2, prompt_tokens=10, cached_tokens=9))
    assert "+40 points" in repr(profiles.compare(half, most))


def test_hostile_names_are_escaped() -> None:
    checked(profiles.compare(with_ttft(4, 1), with_ttft(4, 1), names=(HOSTILE, HOSTILE))._repr_mimebundle_())


def test_only_profiles_are_compared() -> None:
    with pytest.raises(errors.ArgumentTypeError, match="Not a profile: str"):
        profiles.compare(profile(), "profile.json")  # type: ignore[arg-type]
