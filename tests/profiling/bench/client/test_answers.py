"""What the load test's client reads of an answer."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbruntime.profiling.bench.client.answers import Answer
from nbruntime.profiling.bench.client.http_answer import HttpAnswer, NotHttpError

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


def event(tokens: int, reason: dict[str, Any] | None = None, **fields: Any) -> bytes:
    meta = {"completion_tokens": tokens, "prompt_tokens": 7, "cached_tokens": 3, "finish_reason": reason}
    return b"data: " + json.dumps({"text": "x" * tokens, "meta_info": meta, **fields}).encode() + b"\n\n"


def read(*pieces: bytes) -> Answer:
    answer = Answer()
    for number, piece in enumerate(pieces):
        answer.feed(piece, float(number))
    answer.end()
    return answer


END = event(5, {"type": "length", "length": 5}) + b"data: [DONE]\n\n"


def test_arrivals_are_new_tokens_by_event() -> None:
    answer = read(event(1), event(1), event(3) + event(4), END)
    assert answer.arrivals == [(0.0, 1), (2.0, 2), (2.0, 1), (3.0, 1)]
    assert (answer.finish, answer.error, answer.count("prompt_tokens")) == ("length", "", 7)


def test_nan_in_an_event_is_no_error() -> None:
    odd = event(2).replace(b'"prompt_tokens": 7', b'"prompt_tokens": NaN')
    assert read(event(1), odd, END).arrivals == [(0.0, 1), (1.0, 1), (2.0, 3)]


@pytest.mark.parametrize(
    ("last", "error"),
    [
        (b'data: {"error": {"message": "too long"}}\n\n', "too long"),
        (event(2, {"type": "abort", "message": "Abort in waiting queue"}), "Abort in waiting queue"),
        (event(2), "The stream ended before the answer"),
        (b"", "The stream ended before the answer"),
        (b"data: {nothing\n\n", "The server sent an event that is not JSON"),
    ],
)
def test_errors_inside_a_stream(last: bytes, error: str) -> None:
    assert read(event(1), last).error == error


@pytest.mark.parametrize("count", [-4, 10**25, "many"])
def test_impossible_counts_do_not_count(count: object) -> None:
    odd = event(2).replace(b'"completion_tokens": 2', b'"completion_tokens": ' + json.dumps(count).encode())
    assert odd != event(2)
    answer = read(event(1), odd, END)
    assert answer.arrivals == [(0.0, 1), (2.0, 4)]
    assert answer.count("completion_tokens") == 5


def taken_apart(data: bytes, cuts: list[int]) -> tuple[HttpAnswer, bytes]:
    pieces: list[bytes] = []
    answer = HttpAnswer(pieces.append)
    edges = [0, *sorted(cuts), len(data)]
    for start, end in pairwise(edges):
        if end > start:
            answer.feed(data[start:end])
    return answer, b"".join(pieces)


CHUNKED_HEAD = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKED = CHUNKED_HEAD + b"5\r\nHello\r\n1a;x=y\r\n" + b"\r\n" * 13 + b"\r\n0\r\n\r\n"


@given(st.lists(st.integers(0, len(CHUNKED)), max_size=8))
def test_chunks_may_be_cut_anywhere(cuts: list[int]) -> None:
    answer, body = taken_apart(CHUNKED, cuts)
    assert body == b"Hello" + b"\r\n" * 13
    assert answer.done
    assert answer.keeps_connection


@given(st.lists(st.integers(0, 200), max_size=8))
def test_a_length_or_the_end_of_the_connection_ends_a_body(cuts: list[int]) -> None:
    answer, body = taken_apart(
        b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"Content-Length: 3\r\n\r\nabc", cuts
    )
    assert (body, answer.done, answer.keeps_connection) == (b"abc", True, True)
    answer, body = taken_apart(HEAD + b"Connection: close\r\n\r\nabc", cuts)
    assert (body, answer.done, answer.until_close) == (b"abc", False, True)


def test_trailers_and_empty_bodies() -> None:
    answer, _ = taken_apart(CHUNKED_HEAD + b"0\r\nX: y\r\n\r\n", [])
    assert answer.done
    answer, _ = taken_apart(HEAD + b"Content-Length: 0\r\n\r\n", [])
    assert answer.done


@pytest.mark.parametrize("data", [b"\x15\x03\x01\x00\x02", b"SSH-2.0\r\n\r\n"])
def test_other_protocols_are_refused(data: bytes) -> None:
    with pytest.raises(NotHttpError):
        taken_apart(data, [])


@pytest.mark.parametrize("size", [b"zz", b"-5", b"+5", b"0x5", b"5_0", b""])
def test_wrong_sizes_of_chunks_are_refused(size: bytes) -> None:
    with pytest.raises(NotHttpError):
        taken_apart(CHUNKED_HEAD + size + b"\r\nHello\r\n", [])
