"""What the embedded server's answers hold: samples, request ids, log-probabilities, incremental streams."""

from __future__ import annotations

import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.embedded_server import CHAT, PROMPT, EmbeddedServer
from support.server_client import generate_body


@pytest.mark.model
def test_samples_of_a_prompt_are_adjacent(server: EmbeddedServer, greedy: dict[str, Any]) -> None:
    prompts = [PROMPT, "2+2="]
    answers = server.generate(prompts, fields={"rid": "mine"}, n=3, max_new_tokens=4)
    assert len(answers) == 6
    assert len({answer["meta_info"]["id"] for answer in answers}) == 6
    assert [answer["output_ids"] for answer in answers[:3]] == [greedy["output_ids"][:4]] * 3
    assert answers[3]["text"] == answers[5]["text"] != answers[0]["text"]
    events = server.events(PROMPT, n=3, temperature=1, max_new_tokens=3)
    assert {event["index"] for event in events} == {0, 1, 2}
    for index in range(3):
        assert len({event["meta_info"]["id"] for event in events if event["index"] == index}) == 1


@pytest.mark.model
def test_answers_have_the_request_ids(server: EmbeddedServer) -> None:
    assert server.generate("Hi", fields={"rid": "mine ✓"}, max_new_tokens=1)["meta_info"]["id"] == "mine ✓"
    batch = server.generate(["Hi", "Ho"], fields={"rid": "mine"}, max_new_tokens=1)
    assert [answer["meta_info"]["id"] for answer in batch] == ["mine_0", "mine_1"]
    batch = server.generate(["Hi", "Ho"], fields={"rid": ["b", "a"]}, max_new_tokens=1)
    assert [answer["meta_info"]["id"] for answer in batch] == ["b", "a"]


@pytest.mark.model
def test_no_new_tokens_scores_the_prompt(server: EmbeddedServer) -> None:
    wanted = {"return_logprob": True, "logprob_start_len": 0, "return_prompt_token_ids": True}
    answer = server.generate(PROMPT, fields=wanted, max_new_tokens=0)
    assert (answer["text"], answer["output_ids"]) == ("", [])
    assert answer["meta_info"]["finish_reason"] == {"type": "length", "length": 0}
    entries = answer["meta_info"]["input_token_logprobs"]
    assert [entry[1] for entry in entries] == answer["prompt_token_ids"]
    assert entries[0][0] is None
    assert all(entry[0] < 0 for entry in entries[1:])


@pytest.mark.model
def test_logprobs_begin_at_logprob_start_len(server: EmbeddedServer) -> None:
    fields: dict[str, Any] = {"return_logprob": True, "top_logprobs_num": 2, "return_text_in_logprobs": True}
    whole = server.generate(PROMPT, fields=fields | {"logprob_start_len": 0}, max_new_tokens=3)["meta_info"]
    count = whole["prompt_tokens"]
    assert "".join(entry[2] for entry in whole["input_token_logprobs"]) == PROMPT
    for start in range(count + 1):
        meta = server.generate(PROMPT, fields=fields | {"logprob_start_len": start}, max_new_tokens=3)[
            "meta_info"
        ]
        assert len(meta["input_token_logprobs"]) == len(meta["input_top_logprobs"]) == count - start
        for at, entry in enumerate(meta["input_token_logprobs"]):
            assert entry[1:] == whole["input_token_logprobs"][start + at][1:]
            if at == 0:
                assert entry[0] is None
                assert meta["input_top_logprobs"][0] is None
            else:
                assert entry[0] == pytest.approx(whole["input_token_logprobs"][start + at][0], abs=1e-4)
        assert len(meta["output_token_logprobs"]) == meta["output_token_logprobs_length"] == 3
    none = server.generate(PROMPT, fields=fields, max_new_tokens=3)["meta_info"]
    assert (none["input_token_logprobs"], none["input_top_logprobs"]) == ([], [])
    assert [row[0][1] for row in none["output_top_logprobs"]] == [
        row[1] for row in none["output_token_logprobs"]
    ]
    beyond = server.post(
        "/generate", generate_body(PROMPT, fields | {"logprob_start_len": count + 1}, max_new_tokens=1)
    )
    assert beyond.status_code == 400


@pytest.mark.model
def test_incremental_streams_join_to_the_cumulative_ones(
    server: EmbeddedServer, incremental_server: EmbeddedServer, greedy: dict[str, Any]
) -> None:
    assert incremental_server.get("/server_info").json()["incremental_streaming_output"] is True
    fields: dict[str, Any] = {"return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 2}
    emoji = "<|im_start|>user\nRepeat exactly: 😀🎉 日本語<|im_end|>\n<|im_start|>assistant\n"
    prompts, params = [PROMPT, emoji, CHAT], {"max_new_tokens": 20, "stop": ["\n\nThe"]}
    whole = server.events(prompts, fields=fields, **params)
    parts = incremental_server.events(prompts, fields=fields, **params)
    for index in range(3):
        last = [event for event in whole if event["index"] == index][-1]
        deltas = [event for event in parts if event["index"] == index]
        assert len(deltas) > 2
        assert "".join(delta["text"] for delta in deltas) == last["text"]
        assert joined(delta["output_ids"] for delta in deltas) == last["output_ids"]
        for name in ("output_token_logprobs", "output_top_logprobs"):
            theirs = last["meta_info"][name]
            ours = joined(delta["meta_info"][name] for delta in deltas)
            assert json.dumps(rounded(ours)) == json.dumps(rounded(theirs))
        for delta in deltas:
            assert len(delta["meta_info"]["input_token_logprobs"]) == delta["meta_info"]["prompt_tokens"]
        counts = [delta["meta_info"]["completion_tokens"] for delta in deltas]
        assert counts == list(itertools.accumulate(len(delta["output_ids"]) for delta in deltas))
        assert deltas[-1]["meta_info"]["finish_reason"] == last["meta_info"]["finish_reason"]


def joined(lists: Any) -> list[Any]:
    return list(itertools.chain.from_iterable(lists))


def rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return round(value, 3) if isinstance(value, float) else value


@pytest.mark.model
def test_incomplete_characters_are_never_streamed(server: EmbeddedServer) -> None:
    emoji = "<|im_start|>user\nRepeat exactly: 😀🎉 日本語<|im_end|>\n<|im_start|>assistant\n"
    events = server.events(emoji, max_new_tokens=24)
    assert any(ord(character) > 0xFFFF for character in events[-1]["text"])
    assert not any("\ufffd" in event["text"] for event in events[:-1])


@pytest.mark.model
def test_concurrent_streams_do_not_mix(server: EmbeddedServer) -> None:
    prompts = [PROMPT, "2+2=", "My name is", "def add(a, b):"]
    alone = [server.generate(prompt, max_new_tokens=10)["output_ids"] for prompt in prompts]
    started = threading.Barrier(len(prompts))

    def stream(prompt: str) -> list[int]:
        started.wait()
        ids: list[int] = server.events(prompt, max_new_tokens=10)[-1]["output_ids"]
        return ids

    with ThreadPoolExecutor(len(prompts)) as pool:
        assert list(pool.map(stream, prompts)) == alone
