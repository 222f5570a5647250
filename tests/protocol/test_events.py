"""The event and delta decoders: the same result wherever the bytes are cut."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nbruntime.protocol.delta_decoder import DeltaDecoder
from nbruntime.protocol.deltas import Delta
from nbruntime.protocol.events import EventDecoder

# Tokens of real models, and difficult ones: repeats, white space, quotes, escapes,
# half-written JSON, several bytes per character, characters that str.splitlines would split at.
TOKENS = ["a", "1", "1", "\n", "\n\n", " ", " Paris", '"', "\\", '\\"', '{"text":"', "data: ", "é", "世",
          "😀", "\u2028", "\x85", "\x1c", "[DONE]", "\t", "\x00", '","output_ids":[', "\\u00e9"]  # fmt: skip

tokens = st.lists(st.sampled_from(TOKENS), min_size=1, max_size=12)
compact = (",", ":")


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut bytes at the given places."""
    places = sorted({place % (len(data) + 1) for place in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def reference(data: str) -> list[str]:
    """Decode the whole text line by line, as the HTML standard says."""
    events, lines = [], []
    for line in data.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]:
        if line == "":
            if "\n".join(lines):
                events.append("\n".join(lines))
            lines = []
        elif line.startswith(("data:", "data\n")) or line == "data":
            lines.append(line[5:].removeprefix(" "))
    return events


lines = st.one_of(
    st.just(""),
    st.sampled_from(
        ["data", "data:", "data: ", ":", ": comment", "event: x", "id: 7", "retry:1", "database: no"]
    ),
    st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=8).map("data: ".__add__),
    st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=8),
)


@given(
    st.lists(st.tuples(lines, st.sampled_from(["\n", "\r\n", "\r"])), max_size=20),
    st.booleans(),
    st.lists(st.integers(0, 10_000), max_size=30),
)
@example([("data: a", "\r"), ("", "\n"), ("data: b", "\r\n"), ("", "\r\n")], False, [8])
def test_events_follow_the_html_standard(parts: list[tuple[str, str]], mark: bool, cuts: list[int]) -> None:
    text = "\ufeff" * mark + "".join(line + end for line, end in parts)
    decoder = EventDecoder()
    found = [event for piece in cut(text.encode(), cuts) for event in decoder.feed(piece)]
    assert [event.decode() for event in found] == [event for event in reference(text) if event != "[DONE]"]


def test_bytes_fed_one_by_one() -> None:
    text = (
        '\ufeff: hello\r\rdata: {"a":\rdata:1}\r\n\r\ndata: é😀\n\nevent: x\n\ndata: [DONE]\n\ndata: late\n\n'
    )
    data = text.encode()
    decoder = EventDecoder()
    found = [event for i in range(len(data)) for event in decoder.feed(data[i : i + 1])]
    assert found == [b'{"a":\n1}', "é😀".encode()]
    assert decoder.done
    assert decoder.close() == []


def test_close_returns_an_event_without_an_empty_line() -> None:
    decoder = EventDecoder()
    assert decoder.feed(b"data: one\n\ndata: tw") == [b"one"]
    assert decoder.close() == [b"tw"]
    assert decoder.close() == []


# Streams of cumulative and incremental servers


def events_of(
    answers: list[list[str]],
    *,
    incremental: bool,
    order: Callable[[int], int] = lambda step: 0,
    write: Callable[[object], str] = lambda event: json.dumps(event, ensure_ascii=False, separators=compact),
    hold: int = 1,
    logprobs: bool = False,
) -> bytes:
    """Write the stream of a server for answers that are given as lists of tokens, `hold` tokens per event."""
    many = len(answers) > 1
    steps = [(index, end) for index, answer in enumerate(answers)
             for end in dict.fromkeys([*range(hold, len(answer), hold), len(answer)])]  # fmt: skip
    queues = {index: [end for i, end in steps if i == index] for index in range(len(answers))}
    sent = dict.fromkeys(queues, 0)
    data, step = [], 0
    while any(queues.values()):
        open_ = [index for index, queue in queues.items() if queue]
        index = open_[order(step) % len(open_)]
        step += 1
        end, start, answer = queues[index].pop(0), sent[index], answers[index]
        sent[index] = end
        first = start if incremental else 0
        ids = [1000 + TOKENS.index(token) for token in answer]
        last = end == len(answer)
        meta: dict[str, object] = {
            "id": f"rid-{index}",
            "finish_reason": {"type": "length", "length": end} if last else None,
            "prompt_tokens": 5,
            "completion_tokens": end,
        }
        if logprobs:
            meta["input_token_logprobs"] = [[None, 1, "x"], [-0.5, 2, "y"]]
            meta["output_token_logprobs"] = [[-float(i), ids[i], answer[i]] for i in range(first, end)]
        event = {"text": "".join(answer[first:end]), "output_ids": ids[first:end], "meta_info": meta}
        if many:
            event["index"] = index
        data.append(f"data: {write(event)}\n\n")
    return "".join([*data, "data: [DONE]\n\n"]).encode()


def decode(data: bytes, cuts: list[int]) -> tuple[DeltaDecoder, list[Delta]]:
    decoder = DeltaDecoder()
    found = [delta for piece in cut(data, cuts) for delta in decoder.feed(piece)]
    found += decoder.close()
    assert decoder.failure is None
    return decoder, found


writers = st.sampled_from(
    [
        lambda event: json.dumps(event, ensure_ascii=False, separators=compact),  # as SGLang
        lambda event: json.dumps(event, separators=compact),  # escapes all but ASCII
        lambda event: json.dumps(event, ensure_ascii=False),  # with spaces
        lambda event: json.dumps(dict(reversed(event.items())), separators=compact),  # in another order
    ]
)


@given(
    st.lists(tokens, min_size=1, max_size=3),
    st.booleans(),
    writers,
    st.integers(1, 3),
    st.booleans(),
    st.lists(st.integers(0, 7), min_size=1, max_size=8),
    st.lists(st.integers(0, 10_000), max_size=12),
)
@example([["1", "1", "1"]], True, lambda e: json.dumps(e, separators=compact), 1, False, [0], [])
@example([["1", "1", "1"]], False, lambda e: json.dumps(e, separators=compact), 1, False, [0], [])
def test_no_text_is_lost_or_doubled(
    answers: list[list[str]],
    incremental: bool,
    write: Callable[[object], str],
    hold: int,
    logprobs: bool,
    order: list[int],
    cuts: list[int],
) -> None:
    data = events_of(
        answers,
        incremental=incremental,
        order=lambda step: order[step % len(order)],
        write=write,
        hold=hold,
        logprobs=logprobs,
    )
    decoder, found = decode(data, cuts)
    assert decoder.done
    for index, answer in enumerate(answers):
        item = decoder.items[index]
        mine = [delta for delta in found if delta.index == index]
        ids = [1000 + TOKENS.index(token) for token in answer]
        assert "".join(delta.text for delta in mine) == item.text == "".join(answer)
        assert item.output_ids == ids
        assert [delta.start for delta in mine] == list(range(0, len(answer), hold))
        assert [delta.finished for delta in mine] == [False] * (len(mine) - 1) + [True]
        assert item.finish_reason == {"type": "length", "length": len(answer)}
        assert item.meta_info["completion_tokens"] == len(answer)
        assert item.rid == f"rid-{index}"
        if logprobs:
            per_event = [entry[1] for delta in mine for entry in delta.meta_info["output_token_logprobs"]]
            assert per_event == ids
            assert [entry[1] for entry in item.meta_info["output_token_logprobs"]] == ids
            assert len(item.meta_info["input_token_logprobs"]) == 2


@given(tokens, st.booleans(), st.lists(st.integers(0, 10_000), max_size=6))
def test_every_split_gives_the_same_deltas(answer: list[str], incremental: bool, cuts: list[int]) -> None:
    data = events_of([answer], incremental=incremental)
    whole = [repr(delta) for delta in decode(data, [])[1]]
    assert [repr(delta) for delta in decode(data, cuts)[1]] == whole
    assert [repr(delta) for delta in decode(data, list(range(len(data))))[1]] == whole


# The end of a stream


def event(
    text: str, ids: list[int], completed: int | None = None, reason: object = None, **more: object
) -> bytes:
    meta = {
        "id": "r",
        "finish_reason": reason,
        "completion_tokens": len(ids) if completed is None else completed,
    }
    body = {"text": text, "output_ids": ids, "meta_info": meta, **more}
    return b"data: " + json.dumps(body, separators=compact).encode() + b"\n\n"


ABORT = {"type": "abort", "message": "Aborted", "status_code": None, "err_type": None}


def test_an_abort_keeps_text_of_a_cumulative_stream() -> None:
    decoder = DeltaDecoder()
    found = decoder.feed(event("a", [1]) + event("ab", [1, 2]) + event("abc", [1, 2, 3], reason=ABORT))
    assert [delta.text for delta in found] == ["a", "b", "c"]
    assert decoder.items[0].finish_reason == ABORT


def test_an_abort_without_text_keeps_the_text() -> None:
    decoder = DeltaDecoder()
    decoder.feed(event("a", [1]) + event("ab", [1, 2]) + event("", [1, 2], reason=ABORT))
    assert decoder.items[0].text == "ab"


@pytest.mark.parametrize("tokens_before", [1, 2, 3])
def test_an_abort_in_an_incremental_stream_does_not_double_the_text(tokens_before: int) -> None:
    # SGLang then sends the whole text once more, with the last token id only.
    decoder = DeltaDecoder()
    for n in range(tokens_before):
        decoder.feed(event("abc"[n], [n], n + 1))
    whole = "abc"[:tokens_before]
    decoder.feed(event(whole, [tokens_before - 1], tokens_before, ABORT))
    item = decoder.items[0]
    assert item.text == whole
    assert item.output_ids == list(range(tokens_before))


def test_text_that_is_flushed_without_a_token_is_kept() -> None:
    decoder = DeltaDecoder()
    decoder.feed(event("a", [1], 1) + event("b", [2], 2))
    found = decoder.feed(event("c", [], 2, {"type": "length", "length": 2}))
    assert [delta.text for delta in found] == ["c"]
    assert decoder.items[0].text == "abc"


def test_a_stop_string_is_cut_off_at_the_end() -> None:
    decoder = DeltaDecoder()
    found = decoder.feed(
        event("a", [1]) + event("a E", [1, 2]) + event("a", [1, 2, 3], reason={"type": "stop"})
    )
    assert [delta.text for delta in found] == ["a", " E", ""]
    assert decoder.items[0].text == "a"  # the server's last word


def test_a_stream_of_an_old_server_without_token_ids() -> None:
    decoder = DeltaDecoder()
    for text in ("Hel", "Hello", "Hello!"):
        decoder.feed(b'data: {"text":"%b","meta_info":{"id":"r"}}\n\n' % text.encode())
    assert decoder.items[0].text == "Hello!"


def test_cumulative_text_with_incremental_ids() -> None:
    decoder = DeltaDecoder(cumulative_text=True)
    found = decoder.feed(event("1", [7], 1) + event("11", [7], 2) + event("11", [8], 3))
    assert [delta.text for delta in found] == ["1", "1", ""]
    assert decoder.items[0].output_ids == [7, 7, 8]


def test_a_request_without_new_tokens() -> None:
    decoder = DeltaDecoder()
    found = decoder.feed(event("", [], 0, {"type": "length", "length": 0}) + b"data: [DONE]\n\n")
    assert [repr(delta) for delta in found] == ["Delta(0, '', tokens 0+0, finished)"]


@pytest.mark.parametrize(
    ("body", "message", "status"),
    [
        ({"error": {"message": "too long", "type": "invalid_request_error", "code": 400}}, "too long", 400),
        ({"error": {"message": "x", "code": "busy"}}, "x", None),
        ({"error": "broken"}, "broken", None),
        ({"error": {"no": "message"}}, '{"no": "message"}', None),
    ],
)
def test_error_events(body: object, message: str, status: int | None) -> None:
    decoder = DeltaDecoder()
    data = event("a", [1]) + b"data: " + json.dumps(body).encode() + b"\n\n" + event("ab", [1, 2])
    assert [delta.text for delta in decoder.feed(data)] == ["a"]
    assert decoder.failure is not None
    assert (decoder.failure.message, decoder.failure.status) == (message, status)
    assert decoder.failure.from_server
    assert decoder.feed(event("ab", [1, 2])) == []


@pytest.mark.parametrize("payload", [b"{", b"[1]", b"3", b'{"choices":[]}', b'{"meta_info":3}'])
def test_an_invalid_event_is_a_failure(payload: bytes) -> None:
    decoder = DeltaDecoder()
    assert decoder.feed(b"data: " + payload + b"\n\n") == []
    assert decoder.failure is not None
    assert not decoder.failure.from_server


ILL_TYPED = {
    "finish_reason": b'{"text":"ab","output_ids":[1,2],"meta_info":{"finish_reason":"stop"}}',
    "text": b'{"text":5,"output_ids":[1],"meta_info":{}}',
    "output_ids": b'{"text":"ab","output_ids":5,"meta_info":{}}',
    "prompt_token_ids": b'{"text":"ab","output_ids":[1,2],"meta_info":{},"prompt_token_ids":7}',
    "another index": b'{"text":"zz","output_ids":[1],"meta_info":{},"index":7}',
    "a negative index": b'{"text":"zz","output_ids":[1],"meta_info":{},"index":-1}',
    "an index that is none": b'{"text":"zz","output_ids":[1],"meta_info":{},"index":"0"}',
    "an invalid end": b'{"text":"abc","output_ids":[1,2,3],"meta_info":{"completion_tokens":3,oops}}',
    "too deep": b"[" * 200_000,
    "too long a number": b'{"text":"ab","output_ids":[1,'
    + b"9" * 6000
    + b'],"meta_info":{"finish_reason":null}}',
}


@pytest.mark.parametrize("name", ILL_TYPED)
def test_ill_typed_events_are_failures_and_keep_the_text_before_them(name: str) -> None:
    decoder = DeltaDecoder(expected=1)
    decoder.feed(event("a", [1]))
    found = decoder.feed(event("ab", [1, 2]) + b"data: " + ILL_TYPED[name] + b"\n\n")
    assert [delta.text for delta in found] == ["b"]
    assert decoder.failure is not None
    assert not decoder.failure.from_server
    assert decoder.items[0].text == "ab"
    assert decoder.items[0].output_ids == [1, 2]


def test_a_null_error_is_no_failure() -> None:
    decoder = DeltaDecoder()
    assert [each.text for each in decoder.feed(event("a", [1]).replace(b"{", b'{"error":null,', 1))] == ["a"]


def test_an_event_cut_short_by_the_end_is_no_failure() -> None:
    decoder = DeltaDecoder()
    decoder.feed(event("a", [1]) + b'data: {"text":"ab","outp')
    assert decoder.close() == []
    assert decoder.failure is None
    assert not decoder.done


def test_broken_utf_8_is_replaced() -> None:
    decoder = DeltaDecoder()
    decoder.feed(event("a", [1]) + event("ab", [1, 2]))
    decoder.feed(event("ab?", [1, 2, 3]).replace(b"?", b"\xff"))
    assert decoder.items[0].text == "ab\ufffd"


def test_two_halves_of_a_character_in_two_events() -> None:
    # Servers hold back incomplete characters; one that does not still must not break the comparison of bytes.
    decoder = DeltaDecoder()
    for text, ids in (("a", "1"), ("a ", "1,2"), ("a \\ud83d", "1,2,3"), ("a \\ud83d\\ude00", "1,2,3,4")):
        count = ids.count(",") + 1
        decoder.feed(
            f'data: {{"text":"{text}","output_ids":[{ids}],"meta_info":{{"finish_reason":null,'
            f'"completion_tokens":{count}}}}}\n\n'.encode()
        )
    assert decoder.items[0].text == "a 😀"
