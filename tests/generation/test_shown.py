"""What an answer of 2,000 tokens gives is short to look at, and whole to work with."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from support.html_checks import checked, parsed

from nbruntime.generation import FinishReason, Generation, Generations, Timings
from nbruntime.generation.record import MetaInfo
from nbruntime.generation.tokens import Token

COUNT = 2000
GAPS = (*(0.010 + 0.001 * (number % 3) for number in range(COUNT - 2)), 0.5)
META = {
    "id": "r",
    "finish_reason": {"type": "length", "length": COUNT},
    "prompt_tokens": 5,
    "completion_tokens": COUNT,
    "output_token_logprobs": [[-0.5, number, " <b>"] for number in range(COUNT)],
    "input_token_logprobs": [[-0.5, number, " <b>"] for number in range(COUNT)],
}


@pytest.fixture
def answer() -> Generation:
    timings = Timings(total=25.0, ttft=0.25, itl=GAPS)
    return Generation(" <b>" * COUNT, list(range(COUNT)), META, "Why?", timings=timings)


@pytest.mark.parametrize("name", ["timings", "tokens", "input_tokens", "meta_info", "output_ids"])
def test_a_part_of_an_answer_is_a_card(name: str, answer: Generation) -> None:
    bundle = getattr(answer, name)._repr_mimebundle_()
    plain = bundle["text/plain"]
    assert len(plain.splitlines()) <= 3
    assert len(plain) < 400
    checked(bundle)
    assert "<details" in bundle["text/html"] or "<svg" in bundle["text/html"]


@pytest.mark.parametrize("name", ["usage", "finish_reason", "timings", "tokens", "server_times", "rid"])
def test_a_repr_is_short(name: str, answer: Generation) -> None:
    assert len(repr(getattr(answer, name))) < 400
    assert len(repr(Generations([answer, answer]))) < 800


def test_timings_tell_their_figures_and_show_the_gaps(answer: Generation) -> None:
    assert repr(answer.timings) == (
        "Timings\n  TTFT 250 ms · ITL mean 11.2 ms · p50 11 ms · p99 12 ms · max 500 ms · total 25 s"
    )
    html = answer.timings._repr_mimebundle_()["text/html"]
    assert "between 10 ms and 500 ms" in " ".join(parsed(html).itertext())
    assert len(html) < 8000


@pytest.mark.parametrize(
    ("timings", "text"),
    [
        (Timings(), "Timings · nothing measured"),
        (Timings(total=1.0), "Timings\n  total 1 s"),
        (Timings(total=0.5, ttft=0.5), "Timings\n  TTFT 500 ms · total 500 ms"),
        (
            Timings(ttft=0.0, itl=(0.0,) * 5),
            "Timings\n  TTFT 0 ms · ITL mean 0 ms · p50 0 ms · p99 0 ms · max 0 ms",
        ),
    ],
)
def test_timings_of_little(timings: Timings, text: str) -> None:
    assert repr(timings) == text
    checked(timings._repr_mimebundle_())


def test_finish_reason_names_what_it_has() -> None:
    assert repr(FinishReason("stop", matched=13)) == "FinishReason(type='stop', matched=13)"


def test_tokens_and_meta_info_are_a_list_and_a_dict(answer: Generation) -> None:
    assert answer.tokens[0] == Token(0, " <b>", -0.5)
    assert isinstance(answer.tokens, list)
    assert answer.meta_info == META
    assert isinstance(answer.meta_info, dict)
    assert json.loads(answer.to_json())["meta_info"] == META
    copies: list[Any] = [
        copy.deepcopy(answer),
        pickle.loads(pickle.dumps(answer)),
        Generation.from_json(answer.to_json()),
    ]
    for each in copies:
        assert each == answer
        assert type(each.meta_info) is MetaInfo
    assert repr(answer.meta_info) == repr(META), "print shows all of it"
    assert repr(answer.output_ids) == repr(list(range(COUNT)))


def test_a_short_list_of_numbers_is_shown_as_a_list() -> None:
    assert Generation("x", [1, 2]).output_ids._repr_mimebundle_() == {}  # type: ignore[attr-defined]
