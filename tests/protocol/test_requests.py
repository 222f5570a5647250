"""The body of a request: what is sent, and what is refused before."""

from __future__ import annotations

from array import array
from collections import UserDict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbruntime.errors import ArgumentError, ArgumentTypeError, ArgumentValueError
from nbruntime.protocol.requests import OPTION_NAMES, build_generate_request
from nbruntime.protocol.sampling import PARAMETER_NAMES


def body(prompt: Any = "x", **arguments: Any) -> dict[str, Any]:
    return build_generate_request(prompt, **arguments).body


@pytest.mark.parametrize(
    ("prompt", "field", "value", "prompts", "batch"),
    [
        ("Hello", "text", "Hello", ("Hello",), False),
        ("", "text", "", ("",), False),
        (["a", "b"], "text", ["a", "b"], ("a", "b"), True),
        (("a",), "text", ["a"], ("a",), True),
        ([1, 2], "input_ids", [1, 2], ((1, 2),), False),
        ([[1, 2], [3]], "input_ids", [[1, 2], [3]], ((1, 2), (3,)), True),
        (np.array([1, 2]), "input_ids", [1, 2], ((1, 2),), False),
        (np.array([[1, 2], [3, 4]]), "input_ids", [[1, 2], [3, 4]], ((1, 2), (3, 4)), True),
        ([np.int64(7), 8], "input_ids", [7, 8], ((7, 8),), False),
        (range(3), "input_ids", [0, 1, 2], ((0, 1, 2),), False),
        (array("i", [1, 2]), "input_ids", [1, 2], ((1, 2),), False),
        (UserDict(input_ids=[1, 2], attention_mask=[1, 1]), "input_ids", [1, 2], ((1, 2),), False),
    ],
)
def test_prompts(prompt: Any, field: str, value: Any, prompts: tuple[Any, ...], batch: bool) -> None:
    request = build_generate_request(prompt)
    assert request.body[field] == value
    assert request.prompts == prompts
    assert request.many is batch
    assert request.body["sampling_params"] == {}
    assert "stream" not in request.body
    assert {"text", "input_ids"} & set(request.body) == {field}


@pytest.mark.parametrize(
    "prompt", [[], [[]], [["a"], [1]], ["a", 1], [1, "a"], [1.5], None, 7, {"text": "x"}, b"x"]
)
def test_invalid_prompts(prompt: Any) -> None:
    with pytest.raises(ArgumentError) as caught:
        build_generate_request(prompt)
    assert isinstance(caught.value, TypeError | ValueError)
    assert caught.value.hint


def test_only_what_was_given_is_sent() -> None:
    sent = body(
        temperature=0, stop=(), regex=None, stop_token_ids=(), max_new_tokens=None, lora_path=None, rid="r"
    )
    params = {"temperature": 0, "stop": [], "stop_token_ids": [], "max_new_tokens": None}
    assert sent == {"text": "x", "sampling_params": params, "rid": "r"}


def test_keywords_override_the_mapping_and_do_not_change_it() -> None:
    given_params = {"temperature": 1, "top_p": 0.5}
    assert body(sampling_params=given_params, temperature=0)["sampling_params"] == {
        "temperature": 0,
        "top_p": 0.5,
    }
    assert given_params == {"temperature": 1, "top_p": 0.5}


def test_parameters_of_each_prompt() -> None:
    request = build_generate_request(
        ["a", "b"], sampling_params=[{"n": 2}, {"n": 2, "top_k": 5}], temperature=0
    )
    assert request.body["sampling_params"] == [
        {"n": 2, "temperature": 0},
        {"n": 2, "top_k": 5, "temperature": 0},
    ]
    assert request.prompt_of_answer == ("a", "a", "b", "b")
    for wrong in ([{}], [{}, {}, {}], [{"n": 2}, {}], [{}, "x"]):
        with pytest.raises(ArgumentError):
            build_generate_request(["a", "b"], sampling_params=wrong)
    with pytest.raises(ArgumentValueError, match="single prompt"):
        build_generate_request("a", sampling_params=[{}])


def test_schemas_become_text() -> None:
    class Model:
        @classmethod
        def model_json_schema(cls) -> dict[str, Any]:
            return {"type": "object"}

    class Adapter:
        def json_schema(self) -> dict[str, Any]:
            return {"type": "array"}

    assert body(json_schema={"type": "object"})["sampling_params"]["json_schema"] == '{"type": "object"}'
    assert body(json_schema='{"a":1}')["sampling_params"]["json_schema"] == '{"a":1}'
    assert body(json_schema=Model)["sampling_params"]["json_schema"] == '{"type": "object"}'
    assert body(json_schema=Adapter())["sampling_params"]["json_schema"] == '{"type": "array"}'
    with pytest.raises(ArgumentTypeError, match="not JSON"):
        body(json_schema={"type": object})


def test_names_of_requests() -> None:
    assert len(body()["rid"]) == 32
    assert body()["rid"] != body()["rid"]
    assert body(["a", "b"], rid="r")["rid"] == ["r_0", "r_1"]
    assert body(["a", "b"], rid=["p", "q"])["rid"] == ["p", "q"]
    assert build_generate_request("a", n=3).many
    for prompt, rid in ((["a", "b"], ["p"]), (["a", "b"], ["p", "p"]), ("a", ""), ("a", ["p", "q"])):
        with pytest.raises(ArgumentValueError):
            build_generate_request(prompt, rid=rid)


def test_logprobs_come_with_text() -> None:
    assert body(return_logprob=True)["return_text_in_logprobs"] is True
    assert body(return_logprob=True, return_text_in_logprobs=False)["return_text_in_logprobs"] is False
    assert "return_text_in_logprobs" not in body(return_logprob=False)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("max_tokens", "max_new_tokens"),
        ("temprature", "temperature"),
        ("seed", "sampling_seed"),
        ("return_logprobs", "return_logprob"),
        ("stop_sequences", "stop"),
        ("lora", "lora_path"),
    ],
)
def test_the_error_for_an_unknown_name_suggests_the_nearest(wrong: str, meant: str) -> None:
    with pytest.raises(TypeError, match=f"Did you mean '{meant}'"):
        body(**{wrong: 1})


def test_the_error_for_an_unknown_name_lists_all_if_none_is_near() -> None:
    with pytest.raises(TypeError, match="Sampling parameters are: max_new_tokens"):
        body(sampling_params={"zzz": 1})


@pytest.mark.parametrize("name", ["timeout", "return_logprob", "image_data"])
def test_argument_among_the_sampling_parameters_is_named(name: str) -> None:
    with pytest.raises(TypeError, match=f"no sampling parameter: give {name}=... as an argument of its own"):
        body(sampling_params={name: 1})


def test_conversation_as_a_prompt_is_told_where_it_goes() -> None:
    with pytest.raises(TypeError, match=r"Give a conversation to chat\(\)"):
        build_generate_request([{"role": "user", "content": "Hello"}])


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"max_new_tokens": 1.0}, TypeError),
        ({"max_new_tokens": "many"}, TypeError),
        ({"temperature": "hot"}, TypeError),
        ({"ignore_eos": 1}, TypeError),
        ({"stop": [1]}, TypeError),
        ({"sampling_params": "x"}, TypeError),
        ({"temperature": -1}, ValueError),
        ({"temperature": float("nan")}, ValueError),
        ({"top_k": 0}, ValueError),
        ({"max_new_tokens": -1}, ValueError),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, ValueError),
        ({"regex": "a", "json_schema": {}}, ValueError),
        ({"n": 0}, ValueError),
    ],
)
def test_invalid_values(arguments: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        body(**arguments)
    assert isinstance(caught.value, ArgumentError)
    assert "sampling_params" in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"return_logprob": "yes"},
        {"return_logprob": 1},
        {"top_logprobs_num": "3"},
        {"top_logprobs_num": True},
        {"top_logprobs_num": [3, "3"]},
        {"logprob_start_len": 0.5},
        {"token_ids_logprob": 5},
        {"token_ids_logprob": ["5"]},
        {"session_id": 5},
        {"session_id": ["s"]},
        {"lora_path": 5},
        {"priority": "high"},
        {"custom_labels": "x"},
        {"rid": 5},
    ],
)
def test_options_of_a_wrong_type(arguments: dict[str, Any]) -> None:
    with pytest.raises(ArgumentTypeError, match=next(iter(arguments))) as caught:
        body(**arguments)
    assert len(str(caught.value).splitlines()) == 2


def test_options_for_each_prompt() -> None:
    given = {
        "return_logprob": (True, False),
        "lora_path": ["a", None],
        "token_ids_logprob": [[5], None],
        "image_data": [["a.png"], "b.png"],
    }
    sent = build_generate_request(["x", "y"], **given).body
    assert {name: sent[name] for name in given} == {**given, "return_logprob": [True, False]}


@given(st.dictionaries(st.text(max_size=12), st.integers(), max_size=3))
def test_no_unknown_name_is_ever_sent(arguments: dict[str, int]) -> None:
    known = {*PARAMETER_NAMES, *OPTION_NAMES}
    unknown = set(arguments) - known
    try:
        sent = body(sampling_params={name: value for name, value in arguments.items() if name in unknown})
    except TypeError:
        assert unknown
    else:
        assert not unknown
        assert sent["sampling_params"] == {}
