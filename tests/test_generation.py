"""Records of generations, and errors: what they say, and that they survive being written and read."""

from __future__ import annotations

import copy
import json
import math
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbruntime import errors
from nbruntime.generation import FinishReason, Generation, GenerationStream, Timings, Token
from nbruntime.protocol.requests import build_generate_request

META = {
    "id": "r",
    "finish_reason": {"type": "stop", "matched": 13},
    "prompt_tokens": 5,
    "completion_tokens": 2,
    "cached_tokens": 4,
    "e2e_latency": 0.5,
    "output_token_logprobs": [[-0.5, 7042, " Paris"], [-0.1, 13, "."]],
    "output_top_logprobs": [[[-0.5, 7042, " Paris"], [-1.0, 260, " the"]], None],
    "output_token_ids_logprobs": [[[-2.0, 9, "x"]], [[-3.0, 9, "x"]]],
    "input_token_logprobs": [[None, 504, "The"], [-1.0, 3575, " capital"]],
    "input_top_logprobs": [None, [[-0.8, 29, "-"]]],
}


def generation(**more: Any) -> Generation:
    values: dict[str, Any] = {
        "text": " Paris.",
        "output_ids": [7042, 13],
        "meta_info": META,
        "prompt": "The capital of France is",
        "timings": Timings(total=0.4, ttft=0.1, itl=(0.1,)),
    }
    return Generation(**{**values, **more})


def test_what_it_holds() -> None:
    made = generation()
    assert made.rid == "r"
    assert made.finish_reason == FinishReason("stop", matched=13)
    assert made.usage == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7, "cached_tokens": 4}
    assert made.server_latency == 0.5
    assert made.tokens_per_second == pytest.approx(5)
    assert made.decode_tokens_per_second == pytest.approx(10)
    assert str(made) == " Paris."


def test_tokens() -> None:
    first, second = generation().tokens
    assert first == Token(
        7042, " Paris", -0.5,
        top=(Token(7042, " Paris", -0.5), Token(260, " the", -1.0)), asked=(Token(9, "x", -2.0),),
    )  # fmt: skip
    assert second.top == ()
    assert first.probability == pytest.approx(math.exp(-0.5))
    assert [token.logprob for token in generation().input_tokens] == [None, -1.0]
    assert generation().input_tokens[0].probability is None
    assert generation(meta_info={}).tokens == [Token(7042), Token(13)]
    # A request that only scores the prompt brings the logprob of a token that was not generated.
    assert generation(output_ids=[]).tokens == []


def test_repr_is_short_and_asks_nobody() -> None:
    text = repr(generation(text="word " * 1000))
    assert len(text.splitlines()) == 3
    assert max(map(len, text.splitlines())) < 110
    assert "TTFT 100 ms, total 400 ms, 5 tokens/s" in text
    assert repr(Generation("")) == "Generation ''\n  0 tokens, unfinished"


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ({"type": "stop", "matched": 2}, "stop (token 2)"),
        ({"type": "stop", "matched": "\n"}, "stop ('\\n')"),
        ({"type": "stop", "matched": None}, "stop"),
        ({"type": "length", "length": 8}, "length (8)"),
        ({"type": "abort", "message": "Aborted", "status_code": None, "err_type": None}, "abort (Aborted)"),
    ],
)
def test_reasons(reason: dict[str, Any], text: str) -> None:
    assert str(FinishReason.from_dict(reason)) == text


json_values: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.text(max_size=20),
    st.lists(st.integers(0, 100_000), max_size=5),
    st.dictionaries(st.text(max_size=8), json_values, max_size=4),
    st.none() | st.text(max_size=8) | st.lists(st.integers(), max_size=4),
    st.lists(st.floats(0, 10), max_size=4),
)
def test_written_and_read_again(
    text: str, ids: list[int], meta: dict[str, Any], prompt: Any, itl: list[float]
) -> None:
    made = Generation(text, ids, meta, prompt, 3, Timings(1.5, 0.5, tuple(itl)), [1, 2])
    assert Generation.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert pickle.loads(pickle.dumps(made)) == made
    assert copy.deepcopy(made) == made


def test_an_answer_of_a_server_can_be_read() -> None:
    made = Generation.from_dict({"text": "a", "output_ids": [1], "meta_info": META, "index": 2}, prompt="p")
    assert (made.text, made.index, made.prompt, made.timings) == ("a", 2, "p", Timings())


def test_times() -> None:
    assert Timings.from_arrivals(0.0, [], None) == Timings(None, None, ())
    made = Timings.from_arrivals(1.0, [(1.25, 2), (1.5, 1), (2.5, 4)], 3.0)
    assert made == Timings(total=2.0, ttft=0.25, itl=(0.25, 0.25, 0.25, 0.25, 0.25))


def test_tokens_that_arrive_together_are_one_arrival() -> None:
    reasons = [None, None, None, {"type": "length", "length": 4}]
    events = [
        {
            "text": "a" * n,
            "output_ids": list(range(n)),
            "meta_info": {"completion_tokens": n, "finish_reason": reason},
        }
        for n, reason in enumerate(reasons, 1)
    ]
    data = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]
    stream = GenerationStream(
        iter([data[0], b"".join(data[1:]), b"data: [DONE]\n\n"]),
        build_generate_request("x", stream=True),
        close=lambda: None,
        abort=lambda rids: None,
    )
    made = stream.result()
    assert isinstance(made, Generation)
    assert len(made.timings.itl) == 3
    assert len(set(made.timings.itl)) == 1
    assert made.timings.ttft is not None
    assert made.timings.total is not None
    assert made.timings.ttft + sum(made.timings.itl) <= made.timings.total


# Errors


@pytest.mark.parametrize("name", errors.__all__)
def test_errors_survive_pickle_and_copy(name: str) -> None:
    kind = getattr(errors, name)
    plain = kind("It broke", where="there", hint="Mend it.")
    for made in (plain, pickle.loads(pickle.dumps(plain)), copy.copy(plain), copy.deepcopy(plain)):
        assert type(made) is kind
        assert str(made).splitlines()[:2] == ["It broke (there)", "Mend it."]
        assert isinstance(made, errors.NbruntimeError)
    assert kind.__doc__


def test_errors_keep_what_they_carry() -> None:
    partial = errors.StreamError("broke off", generations=[generation()], status=500, server_message="oh")
    partial = pickle.loads(pickle.dumps(partial))
    assert partial.generation == generation()
    assert (partial.text, partial.status, partial.server_message) == (" Paris.", 500, "oh")
    assert errors.StreamError("x").text == ""
    launch = errors.LaunchError("No server", cause="exit code 1", log_lines=["one", "two"], where="a.log")
    launch = pickle.loads(pickle.dumps(launch))
    assert (launch.cause, launch.log_lines) == ("exit code 1", ("one", "two"))
    assert str(launch).splitlines()[0] == "No server: exit code 1 (a.log)"
    assert str(launch).splitlines()[-1].strip() == "two"


def test_errors_are_what_python_knows() -> None:
    assert issubclass(errors.ArgumentValueError, ValueError)
    assert issubclass(errors.ArgumentTypeError, TypeError)
    assert issubclass(errors.ServerConnectionError, ConnectionError)
    assert issubclass(errors.ServerTimeoutError, TimeoutError)
    assert issubclass(errors.LaunchTimeoutError, TimeoutError)
