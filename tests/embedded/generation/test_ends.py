"""Where an answer of the embedded server ends: lengths, stop strings, stop tokens, stop expressions."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.embedded_server import CHAT, PROMPT, EmbeddedServer
from support.reference import EOS
from support.server_client import generate_body


@pytest.mark.model
def test_min_new_tokens_and_ignore_eos(server: EmbeddedServer) -> None:
    natural = server.generate(CHAT, max_new_tokens=40)
    length = natural["meta_info"]["completion_tokens"]
    assert natural["meta_info"]["finish_reason"] == {"type": "stop", "matched": EOS}
    assert natural["output_ids"][-1] == EOS
    longer = server.generate(CHAT, max_new_tokens=length + 8, min_new_tokens=length + 4)
    assert longer["meta_info"]["completion_tokens"] >= length + 4
    assert EOS not in longer["output_ids"][: length + 4]
    ignoring = server.generate(CHAT, max_new_tokens=length + 4, ignore_eos=True)
    assert ignoring["output_ids"][:length] == natural["output_ids"]
    assert ignoring["meta_info"]["finish_reason"] == {"type": "length", "length": length + 4}
    # None is the rest of the context: the answer ends where it ends.
    assert server.generate(CHAT, max_new_tokens=None)["output_ids"] == natural["output_ids"]
    kept = server.generate(CHAT, max_new_tokens=40, no_stop_trim=True, skip_special_tokens=False)
    assert kept["text"] == natural["text"] + "<|im_end|>"
    shown = server.generate(CHAT, max_new_tokens=length + 2, ignore_eos=True, skip_special_tokens=False)
    assert "<|im_end|>" in shown["text"]


@pytest.mark.model
def test_stop_strings_end_the_answer_and_are_never_shown(
    server: EmbeddedServer, greedy: dict[str, Any]
) -> None:
    text = greedy["text"]
    stops = sorted({text[begin : begin + length] for begin in (1, 6, 20) for length in (1, 4, 9)})

    def events(stop: str) -> list[dict[str, Any]]:
        return server.events(PROMPT, max_new_tokens=24, stop=[stop, "never said"])

    with ThreadPoolExecutor(len(stops)) as pool:
        for stop, answer in zip(stops, pool.map(events, stops), strict=True):
            assert answer[-1]["text"] == text[: text.index(stop)]
            assert answer[-1]["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
            for event in answer:
                assert answer[-1]["text"].startswith(event["text"]), stop
    kept = server.generate(PROMPT, max_new_tokens=24, stop=stops[0], no_stop_trim=True)
    assert stops[0] in kept["text"]
    assert text.startswith(kept["text"])


@pytest.mark.model
def test_beginning_of_a_stop_string_is_shown_if_it_is_not_completed(
    server: EmbeddedServer, greedy: dict[str, Any]
) -> None:
    beginnings = [greedy["text"][at : at + 3] + "\0" for at in range(0, 40, 5)]
    events = server.events(PROMPT, max_new_tokens=24, stop=beginnings)
    assert events[-1]["text"] == greedy["text"]
    assert 1 < len(events) < 24
    assert all(greedy["text"].startswith(event["text"]) for event in events)


@pytest.mark.model
def test_stop_token_ids(server: EmbeddedServer, greedy: dict[str, Any]) -> None:
    stop = greedy["output_ids"][3]
    at = greedy["output_ids"].index(stop)
    answer = server.generate(PROMPT, max_new_tokens=24, stop_token_ids=[stop])
    assert answer["output_ids"] == greedy["output_ids"][: at + 1]
    assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
    assert greedy["text"].startswith(answer["text"])


@pytest.mark.model
def test_stop_regex(server: EmbeddedServer, greedy: dict[str, Any]) -> None:
    pattern = r"[A-Z][a-z]+\."
    answer = server.generate(PROMPT, max_new_tokens=24, stop_regex=["never said", pattern])
    assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": pattern}
    assert re.search(pattern, answer["text"])
    assert greedy["text"].startswith(answer["text"])
    assert len(answer["output_ids"]) < 24


@pytest.mark.model
def test_a_slow_stop_regex_does_not_stall_other_requests(
    server: EmbeddedServer, greedy: dict[str, Any]
) -> None:
    with server.stream(PROMPT, max_new_tokens=24) as events:
        next(events)
        slow = server.post(
            "/generate",
            generate_body("aaaa", max_new_tokens=40, logit_bias={"81": 100}, stop_regex="(a|aa)+b"),
        )
        last = list(events)[-1]
    assert slow.status_code == 400
    assert "takes too long" in slow.json()["error"]["message"]
    assert last["text"] == greedy["text"]
