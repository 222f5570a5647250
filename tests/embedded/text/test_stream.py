"""Stop strings and patterns: where they are looked for, which one counts, and what text is left."""

from __future__ import annotations

from typing import Any

import pytest
from support.tiny_tokenizers import IDS, tokenizer_folder

from nbruntime.embedded.engine.request import Request
from nbruntime.embedded.sampling.sampler import SamplingState
from nbruntime.embedded.text.stream import TextStream
from nbruntime.embedded.text.tokenizer import Tokenizer
from nbruntime.protocol.sampling import SamplingParams

END = IDS["</s>"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(tokenizer_folder(tmp_path_factory.mktemp("tokenizer"), eos_token="</s>"))


def answer(tokenizer: Tokenizer, text: str, **params: Any) -> tuple[str, Any, list[str]]:
    """Give the text that is left of an answer, what ended it, and the texts that a stream shows before."""
    read = SamplingParams.from_dict({"max_new_tokens": 40, **params})
    stream = TextStream(tokenizer, [IDS["a"]], read)
    sampling = SamplingState(read, len(IDS), frozenset({END, *read.stop_token_ids}))
    request = Request("", [IDS["a"]], read, sampling, stream, lambda _: None)
    shown = []
    for token_id in tokenizer.encode(text, add_special_tokens=False):
        request.append(token_id)
        if request.finish_reason is not None:
            return stream.text, request.finish_reason.get("matched"), shown
        if not stream.may_be_stopping():
            shown.append(stream.text)
    return stream.text, None, shown


@pytest.mark.parametrize(
    ("stop", "skipped", "shown", "kept"),
    [
        ("</s>", "ab", "ab", "ab</s>"),
        ("<|user|>", "ab", "ab</s>", "ab</s><|user|>"),
        ("b</s>", "ab", "a", "ab</s>"),
        ("</s><|user|>", "ab", "ab", "ab</s><|user|>"),
        ("<|user|>c", "abc", "ab</s>", "ab</s><|user|>c"),
    ],
)
def test_stop_strings_match_special_tokens_that_are_shown_or_not(
    tokenizer: Tokenizer, stop: str, skipped: str, shown: str, kept: str
) -> None:
    for params in ({"stop": stop}, {"stop": ["zz", stop]}):
        options: dict[str, Any] = {"ignore_eos": True, **params}
        text = "ab</s><|user|>cd"
        assert answer(tokenizer, text, **options)[:2] == (skipped, stop)
        assert answer(tokenizer, text, **options, skip_special_tokens=False)[:2] == (shown, stop)
        whole = answer(tokenizer, text, **options, skip_special_tokens=False, no_stop_trim=True)
        assert whole[:2] == (kept, stop)


def test_stop_strings_do_not_match_across_tokens_that_are_not_shown(tokenizer: Tokenizer) -> None:
    texts = ["a", "ab", "abc", "abcd"]
    assert answer(tokenizer, "ab<|user|>cd", stop="bc") == ("abcd", None, texts)


def test_text_that_may_begin_a_stop_string_is_held_back(tokenizer: Tokenizer) -> None:
    held = answer(tokenizer, "ab</s>c", stop="b</s>d", ignore_eos=True)
    assert held == ("abc", None, ["a", "abc"])
    assert answer(tokenizer, "abcd", stop=["bcd"]) == ("a", "bcd", ["a"])
    assert answer(tokenizer, "abcd", stop_regex=["b.d"]) == ("abcd", "b.d", ["a", "ab", "abc"])


@pytest.mark.parametrize(
    ("params", "text", "matched"),
    [
        ({"stop": ["he", "the"]}, "at", "he"),
        ({"stop": ["the", "he"]}, "a", "the"),
        ({"stop": ["zz", "e", "t"]}, "ath", "e"),
        ({"stop": ["the"], "stop_regex": ["[h]"]}, "a", "the"),
        ({"stop": ["e"], "stop_regex": ["t"]}, "ath", "e"),
        ({"stop_regex": ["zz", "h", "t"]}, "at", "h"),
        ({"stop_regex": ["[h]"]}, "athe", "[h]"),
        ({"stop": ["the"], "stop_token_ids": [IDS["the"]]}, "a", "the"),
        ({"stop_token_ids": [IDS["the"]]}, "a", IDS["the"]),
        ({"stop": ["he"], "no_stop_trim": True}, "athe", "he"),
        ({"stop": ["t"], "no_stop_trim": True}, "at", "t"),
        ({"stop_regex": ["t"], "no_stop_trim": True}, "at", "t"),
        ({"stop_regex": ["[t]"], "no_stop_trim": True}, "athe", "[t]"),
    ],
)
def test_the_first_in_the_requests_order_counts_if_a_token_completes_several(
    tokenizer: Tokenizer, params: dict[str, Any], text: str, matched: Any
) -> None:
    assert answer(tokenizer, "ather", **params)[:2] == (text, matched)


@pytest.mark.parametrize("stop", ["</s>", r"<.s>"])
def test_a_stop_string_counts_before_the_end_token_that_completes_it(tokenizer: Tokenizer, stop: str) -> None:
    name = "stop" if stop == "</s>" else "stop_regex"
    assert answer(tokenizer, "ab</s>c", **{name: stop})[:2] == ("ab", stop)
    assert answer(tokenizer, "ab</s>c")[:2] == ("ab", END)
    assert answer(tokenizer, "ab</s>c", stop="</s>", min_new_tokens=9)[:2] == ("ab", "</s>")


def test_a_pattern_sees_special_tokens(tokenizer: Tokenizer) -> None:
    options: dict[str, Any] = {"stop_regex": r"</s><\|[a-z]+\|>", "ignore_eos": True}
    assert answer(tokenizer, "ab</s><|user|>c", **options)[:2] == ("ab", options["stop_regex"])
    whole = answer(tokenizer, "ab</s><|user|>c", **options, skip_special_tokens=False)
    assert whole[:2] == ("ab</s><|user|>", options["stop_regex"])
