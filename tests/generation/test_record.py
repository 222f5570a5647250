"""Records of generations, and errors: what they say, and that they survive being written and read."""

from __future__ import annotations

import copy
import json
import math
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbruntime import errors
from nbruntime.generation import FinishReason, Generation, GenerationStream, Timings, Token, Usage, usage
from nbruntime.protocol.deltas import Item
from nbruntime.protocol.failures import error_of_response
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


def test_properties_of_a_generation() -> None:
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


def test_repr_is_short_and_sends_no_request() -> None:
    text = repr(generation(text="word " * 1000))
    assert len(text.splitlines()) == 3
    assert max(map(len, text.splitlines())) < 110
    assert "TTFT 100 ms, total 400 ms, 5 tokens/s, server 500 ms" in text
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
def test_finish_reasons(reason: dict[str, Any], text: str) -> None:
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
def test_json_round_trip(
    text: str, ids: list[int], meta: dict[str, Any], prompt: Any, itl: list[float]
) -> None:
    made = Generation(text, ids, meta, prompt, 3, Timings(1.5, 0.5, tuple(itl)), [1, 2])
    _ = made.tokens if "output_token_logprobs" not in meta else None  # what is remembered is no part of it
    copies = [
        Generation.from_dict(json.loads(json.dumps(made.to_dict()))),
        Generation.from_json(made.to_json(indent=2)),
        Generation.from_json(made.to_json().encode("ascii")),
        pickle.loads(pickle.dumps(made)),
        copy.deepcopy(made),
        copy.copy(made),
    ]
    for each in copies:
        assert each == made
        assert each.to_dict() == made.to_dict()
        assert repr(each) == repr(made)


def test_from_dict_reads_an_answer_of_a_server() -> None:
    made = Generation.from_dict({"text": "a", "output_ids": [1], "meta_info": META, "index": 2}, prompt="p")
    assert (made.text, made.index, made.prompt, made.timings) == ("a", 2, "p", Timings())


@pytest.mark.parametrize("text", ["", "{", "[1]", '"text"'])
def test_from_json_refuses_text_that_is_no_object(text: str) -> None:
    with pytest.raises(errors.ArgumentTypeError, match="to_json"):
        Generation.from_json(text)


def test_server_times_and_client_timings() -> None:
    made = generation(meta_info={**META, "queue_time": 0.002, "decode_throughput": None})
    assert made.server_times == {"queue_time": 0.002, "e2e_latency": 0.5}
    assert "server 500 ms, queued 2 ms" in repr(made)
    assert generation(meta_info={}).server_times == {}


class Frame:
    """What pandas makes a table of, as far as it matters here."""

    def __init__(self, rows: list[tuple[Any, ...]], columns: list[str]) -> None:
        self.rows, self.columns = rows, columns


def test_to_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=Frame))
    frame = generation(timings=Timings(0.4, 0.1, (0.25,))).to_frame()
    assert frame.columns == ["id", "text", "logprob", "probability", "seconds"]
    assert frame.rows == [
        (7042, " Paris", -0.5, math.exp(-0.5), 0.1),
        (13, ".", -0.1, math.exp(-0.1), 0.35),
    ]
    assert [row[-1] for row in generation(timings=Timings(0.4)).to_frame().rows] == [None, None]


def test_to_frame_without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)  # as if it were not installed
    with pytest.raises(errors.MissingPackageError, match="pip install pandas") as caught:
        generation().to_frame()
    assert isinstance(caught.value, ImportError)


def test_times_of_tokens() -> None:
    assert Timings(1.0, 0.5, (0.25,)).of_tokens(3) == [0.5, 0.5, 0.75]  # two came at first
    assert Timings(1.0, 0.5).of_tokens(2) == [0.5, 0.5]
    assert Timings(1.0, 0.5, (0.25,)).of_tokens(0) == []


def test_usage_adds_up() -> None:
    waited = generation(timings=Timings(), meta_info={**META, "e2e_latency": 2.0})
    total = usage([generation(), [generation(), waited]])
    assert total == Usage(3, 15, 12, 6, pytest.approx(2.8))
    assert total.total_tokens == 21
    assert usage(generation()) + usage([]) == usage([generation()])
    assert usage(each for each in [generation()]).generations == 1
    assert pickle.loads(pickle.dumps(total)) == total
    assert repr(usage(generation())).splitlines() == [
        "Usage: 1 generation",
        "  5 prompt tokens, 4 cached + 2 new = 7 tokens; 400 ms",
    ]
    for wrong in ("text", [generation(), "text"], 5):
        with pytest.raises(errors.ArgumentTypeError):
            usage(wrong)  # type: ignore[arg-type]


@given(st.lists(st.tuples(*[st.integers(0, 10_000)] * 3), max_size=8))
def test_usage_of_parts_is_the_usage_of_the_whole(counts: list[tuple[int, int, int]]) -> None:
    names = ("prompt_tokens", "cached_tokens", "completion_tokens")
    made = [Generation("", meta_info=dict(zip(names, each, strict=True))) for each in counts]
    halves = usage(made[::2]) + usage(made[1::2])
    assert halves == usage(made) == usage([made])
    assert halves.completion_tokens == sum(each[2] for each in counts)


def test_timings_from_arrivals() -> None:
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


@pytest.mark.parametrize(
    "text",
    [
        '{"timings":5}',
        '{"timings":{"x":1}}',
        '{"timings":{"itl":5}}',
        '{"meta_info":5}',
        '{"meta_info":{"finish_reason":"stop"}}',
        '{"output_ids":5}',
        '{"prompt":5}',
        '{"text":5}',
        '{"index":"0"}',
        "[" * 200_000,
        "{",
        "5",
    ],
)
def test_from_json_refuses_wrong_types(text: str) -> None:
    with pytest.raises(errors.ArgumentTypeError, match="Pass the result of to_json"):
        Generation.from_json(text)


def test_meta_info_with_numbers_of_a_wrong_type() -> None:
    names = ("completion_tokens", "prompt_tokens", "cached_tokens", "e2e_latency", "queue_time")
    made = Generation("ab", [1, 2], {**dict.fromkeys(names, "2"), "output_token_logprobs": [[1, 2]]})
    assert "2 tokens" in repr(made)
    assert (made.completion_tokens, made.prompt_tokens, made.server_latency) == (2, 0, None)
    with pytest.raises(errors.ProtocolError, match="logprobs"):
        _ = made.tokens


def test_to_dict_returns_a_copy() -> None:
    made = generation(meta_info={"finish_reason": {"type": "stop"}}, prompt_token_ids=[1])
    given = made.to_dict()
    given["meta_info"]["finish_reason"]["type"] = "length"
    given["prompt_token_ids"].append(2)
    assert made == generation(meta_info={"finish_reason": {"type": "stop"}}, prompt_token_ids=[1])


@pytest.mark.parametrize("when", ["close", "abort"])
def test_interrupt_while_closing_does_not_lose_the_abort(when: str) -> None:
    interrupts = iter([True])
    queued: list[Callable[[], None]] = []
    aborted: list[Sequence[str]] = []

    def close() -> None:
        if when == "close" and next(interrupts, False):
            raise KeyboardInterrupt

    def abort(rids: Sequence[str]) -> None:
        if when == "abort" and next(interrupts, False):
            raise KeyboardInterrupt
        aborted.append(rids)

    event = b'data: {"text":"a","output_ids":[1],"meta_info":{}}\n\n'
    request = build_generate_request("x", rid="r", stream=True)
    stream = GenerationStream(iter([event] * 3), request, close=close, abort=abort, discard=queued.append)
    assert next(stream) == "a"
    with pytest.raises(KeyboardInterrupt):
        stream.close()
    for action in queued:
        action()
    assert aborted == [("r",)]


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


def test_launch_error_escapes_control_characters_of_the_log() -> None:
    launch = errors.LaunchError("No server", cause="bad\x1b[31m", log_lines=["\x1b[2J 10%\r20%"])
    assert "\x1b" not in str(launch)
    assert "\r" not in str(launch)
    assert launch.log_lines == ("\x1b[2J 10%\r20%",)


def test_error_of_a_too_long_request_has_a_hint() -> None:
    words = "The input (9000 tokens) is longer than the model's context length (8192 tokens)."
    error = error_of_response(400, json.dumps({"error": {"message": words}}))
    assert str(error).splitlines() == [
        f"The server answered 400 Bad Request: {words}",
        "Shorten the prompt or lower max_new_tokens, or serve the model with a larger context_length.",
    ]


def test_errors_inherit_from_builtin_errors() -> None:
    assert issubclass(errors.ArgumentValueError, ValueError)
    assert issubclass(errors.ArgumentTypeError, TypeError)
    assert issubclass(errors.ServerConnectionError, ConnectionError)
    assert issubclass(errors.ServerTimeoutError, TimeoutError)
    assert issubclass(errors.LaunchTimeoutError, TimeoutError)


def test_result_while_other_threads_read() -> None:
    """As when a cell asks for the result while a view reads the stream."""
    events = [
        {"text": "ab" * count, "output_ids": [1] * count, "meta_info": {"completion_tokens": count}}
        for count in range(1, 41)
    ]
    events[-1]["meta_info"] = {"completion_tokens": 40, "finish_reason": {"type": "stop"}}
    gate = threading.Event()

    def chunks() -> Iterator[bytes]:
        for event in events:
            gate.wait(10)
            yield f"data: {json.dumps(event)}\n\n".encode()
        yield b"data: [DONE]\n\n"

    request = build_generate_request("Hi", stream=True)
    stream = GenerationStream(chunks(), request, close=lambda: None, abort=lambda rids: None)
    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(list, stream) for _ in range(3)]
        gate.set()
        result = stream.result()
        read = sum(len("".join(reader.result(10))) for reader in readers)
    assert isinstance(result, Generation)
    assert result.text == "ab" * 40
    assert read <= len(result.text), "a reader got what another one had"


def incremental(text: str, count: int, index: int = 0) -> bytes:
    event = {"text": text, "output_ids": [count], "meta_info": {"completion_tokens": count}, "index": index}
    return f"data: {json.dumps(event)}\n\n".encode()


def test_bytes_after_the_end_of_a_stream_are_ignored() -> None:
    """An event was cut in two by the end: without it, the next ones would make another text."""
    second = incremental(" upon", 2)
    waiting, left = threading.Event(), threading.Event()

    def chunks() -> Iterator[bytes]:
        yield incremental("Once", 1) + second[:20]
        waiting.set()
        left.wait(10)
        yield second[20:] + incremental(" a", 3)

    request = build_generate_request("Hi", stream=True)
    stream = GenerationStream(chunks(), request, close=left.set, abort=lambda rids: None)
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(list, stream)
        assert waiting.wait(10)
        with stream._state._lock:  # the reader is behind
            stream.close()
        assert reader.result(10) == ["Once"]
    assert stream.text == "Once"


def test_abort_while_another_answer_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = iter([incremental("a", 1, index) for index in range(3)])
    request = build_generate_request("Hi", n=3, stream=True)
    aborted: list[Sequence[str]] = []
    stream = GenerationStream(chunks, request, close=lambda: None, abort=aborted.append)
    texts = stream.indexed()
    assert next(texts) == (0, "a")

    def name_it_and_read_on(item: Item) -> str:
        monkeypatch.undo()
        assert next(texts) == (1, "a")
        return "given-0"

    monkeypatch.setattr(Item, "rid", property(name_it_and_read_on))
    stream.abort()
    assert aborted[0] == ("given-0",)
