"""The fast reading of events gives what `json.loads` gives, or leaves the event to it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nbruntime.protocol.delta_decoder import DeltaDecoder
from nbruntime.protocol.generate_event import ABSENT, read_event, read_running_event
from nbruntime.protocol.repeated_bytes import RepeatedBytes

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
texts = st.text(st.characters(codec=None), max_size=6)  # lone surrogates, too
events = st.fixed_dictionaries(
    {
        "text": texts | json_values,
        "output_ids": st.lists(st.integers(-(2**70), 2**70), max_size=4) | json_values,
        "meta_info": st.fixed_dictionaries(
            {"completion_tokens": st.integers(0, 4) | json_values},
            optional={
                "finish_reason": st.none() | st.just({"type": "stop"}) | json_values,
                "output_token_logprobs": json_values,
                "queue_time": st.floats(),
                "other": json_values,
            },
        )
        | json_values,
    },
    optional={"index": st.integers(-1, 2) | json_values, "error": json_values, "more": json_values},
)
writers = st.sampled_from(
    [
        lambda event: json.dumps(event, ensure_ascii=False, separators=(",", ":")),
        lambda event: json.dumps(event),
        lambda event: json.dumps(dict(reversed(event.items()))),
    ]
)


def agrees(payload: bytes) -> bool:
    """Check a fast reading against `json.loads`; return whether there was one."""
    running = read_running_event(payload)
    if running is None:
        return False
    event = json.loads(payload.decode("utf-8", "replace"))
    assert running.text == event["text"]
    assert running.output_ids == event["output_ids"]
    assert running.meta_info.completion_tokens == event["meta_info"]["completion_tokens"]
    logprobs = running.meta_info.output_token_logprobs
    assert (logprobs is ABSENT) == ("output_token_logprobs" not in event["meta_info"])
    assert running.index == event.get("index", 0)
    assert event["meta_info"].get("finish_reason") is None
    assert event.get("error") is None
    return True


@given(events, writers)
def test_a_fast_reading_agrees_with_json(event: dict[str, Any], write: Any) -> None:
    agrees(write(event).encode("utf-8", "surrogatepass"))


GOOD = b'{"text":"a","output_ids":[1],"meta_info":{"completion_tokens":1,"x":0}}'


@given(st.integers(0, len(GOOD)), st.integers(0, 3), st.binary(max_size=4))
@example(GOOD.index(b"0"), 1, b"NaN")
@example(GOOD.index(b"0"), 1, b"\xff")
def test_a_fast_reading_of_damaged_bytes_agrees_with_json(place: int, removed: int, added: bytes) -> None:
    agrees(GOOD[:place] + added + GOOD[place + removed :])


@pytest.mark.parametrize(
    ("payload", "fast"),
    [
        (GOOD, True),
        (GOOD.replace(b"0", b"1e999"), True),
        (GOOD.replace(b"0", b"NaN"), False),
        (GOOD.replace(b"0", b"-Infinity"), False),
        (GOOD.replace(b'"a"', b'"\\ud83d"'), False),
        (GOOD.replace(b'"a"', b'"\\ud83d\\ude00"'), True),
        (GOOD.replace(b'"a"', b'"a","text":"b"'), True),
        (GOOD.replace(b"[1]", b"[123456789012345678901234567890]"), True),
        (GOOD.replace(b"0", b'"\xff"'), True),
        (GOOD.replace(b'"a"', b'"\xff"'), False),
        (GOOD.replace(b"0", b"[" * 5000 + b"]" * 5000), False),
    ],
)
def test_what_json_alone_takes_is_left_to_it(payload: bytes, fast: bool) -> None:
    try:
        assert agrees(payload) is fast
    except RecursionError:
        assert not fast


@pytest.mark.parametrize("incremental", [True, False])
@pytest.mark.parametrize("value", ["NaN", "Infinity", '"\\ud83d"', '"\\u0000"', "1e400", "9" * 40])
def test_unusual_values_reach_the_record(incremental: bool, value: str) -> None:
    decoder = DeltaDecoder()
    metas = []
    for n in (1, 2, 3, 4):
        first = n - 1 if incremental else 0
        text, ids = "abcd"[first:n], list(range(first, n))
        event = f'{{"text":"{text}","output_ids":{ids},"meta_info":{{"completion_tokens":{n},"x":{value}}}}}'
        metas += [delta.meta_info for delta in decoder.feed(f"data: {event}\n\n".encode())]
    assert decoder.failure is None
    assert decoder.items[0].text == "abcd"
    assert decoder.items[0].output_ids == [0, 1, 2, 3]
    expected = repr(json.loads(value))
    assert [repr(meta["x"]) for meta in [*metas, decoder.items[0].meta_info]] == [expected] * 5


def test_bytes_that_are_not_utf_8_do_not_lose_the_record() -> None:
    decoder = DeltaDecoder()
    for n in (1, 2, 3):
        payload = b'{"text":"%b","output_ids":[%d],"meta_info":{"completion_tokens":%d,"x":"\xff"}}'
        decoder.feed(b"data: " + payload % (b"abc"[n - 1 : n], n, n) + b"\n\n")
    assert decoder.items[0].text == "abc"
    assert decoder.items[0].meta_info == {"completion_tokens": 3, "x": "\ufffd"}


@given(st.lists(st.tuples(texts, st.integers(0, 200)), min_size=2, max_size=5), st.booleans())
def test_cutting_the_repeated_bytes_leaves_what_is_new(
    parts: list[tuple[str, int]], ascii_only: bool
) -> None:
    def written(count: int) -> bytes:
        text, ids = "".join(text for text, _ in parts[:count]), [id_ for _, id_ in parts[:count]]
        event = {"text": text, "output_ids": ids, "meta_info": {"completion_tokens": count}}
        made = json.dumps(event, ensure_ascii=ascii_only, separators=(",", ":"))
        return made.encode("utf-8", "surrogatepass")

    repeated = RepeatedBytes.of(written(1))
    assert repeated is not None
    for count in range(2, len(parts) + 1):
        new = repeated.cut(written(count))
        if new is None:  # two halves of a surrogate pair have become one character
            return
        event = json.loads(new.decode("utf-8", "surrogatepass"))
        assert event["output_ids"] == [parts[count - 1][1]]
        assert event["text"] == parts[count - 1][0]


@pytest.mark.parametrize(
    "event",
    [
        b'{"text":"Hx","output_ids":[5,6],"meta_info":{}}',  # another text
        b'{"text":"Hello","output_ids":[57],"meta_info":{}}',  # another id
        b'{"text":"Hello","output_ids":[4,6],"meta_info":{}}',
        b'{"text": "Hello","output_ids":[5,6],"meta_info":{}}',  # written in another way
        b'{"output_ids":[5,6],"text":"Hello","meta_info":{}}',
        b'{"text":"Hello","meta_info":{}}',
        b'{"text":"Hello","output_ids":[5,6',
    ],
)
def test_an_event_that_repeats_nothing_is_not_cut(event: bytes) -> None:
    repeated = RepeatedBytes.of(b'{"text":"He","output_ids":[5],"meta_info":{}}')
    assert repeated is not None
    assert repeated.cut(event) is None


def test_events_in_another_order_repeat_no_bytes() -> None:
    assert RepeatedBytes.of(b'{"meta_info":{},"text":"a","output_ids":[1]}') is None


def test_any_event_is_read_with_all_its_fields() -> None:
    assert read_event(b'{"a":[1,null],"b":"\xc3\xa9\xff"}') == {"a": [1, None], "b": "é\ufffd"}
