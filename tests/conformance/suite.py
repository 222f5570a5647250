"""How checks are registered and reported, and the rules that every right answer keeps."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from typing import Any

import requests
from support.server_client import ServerClient

Check = Callable[[ServerClient], Any]

CHECKS: dict[str, Check] = {}
"""Every check by what it is about."""

PROMPT = "The capital of France is"
CAPITAL = [504, 3575, 282, 4649, 314]
"""`PROMPT` as tokens."""

ODD_FOLDER = "odd folder"
"""Kind of the checks that are made on a server of the folder of `support.odd_folder`."""

LONG = {"max_new_tokens": 400, "ignore_eos": True}


def check(name: str) -> Callable[[Check], Check]:
    """Enter a function into the suite."""

    def enter(function: Check) -> Check:
        assert name not in CHECKS
        CHECKS[name] = function
        return function

    return enter


def form(value: Any) -> Any:
    """What JSON a value is, without its contents; of a list, the forms that occur."""
    if isinstance(value, dict):
        return {key: form(each) for key, each in sorted(value.items())}
    if isinstance(value, list):
        forms = {json.dumps(form(each)) for each in value}
        return [json.loads(each) for each in sorted(forms)]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return type(value).__name__
    return "number"


def reply(answer: requests.Response, *, exact: bool = False) -> dict[str, Any]:
    """Status, type and body of an answer; the body's form only, unless all of it has to be the same."""
    found: dict[str, Any] = {"status": answer.status_code}
    if not answer.content:
        return found
    kind = answer.headers.get("Content-Type", "text/plain").split(";")[0]
    if kind != "application/json":
        return found | {"type": kind, "text": answer.text if exact else "..."}
    body = answer.json()
    if isinstance(body, dict) and "validation error" in str(body.get("message")):
        # Which field has what kind of problem; the words are those of whoever checks the types.
        problem = re.search(r"'type': '(\w+)', 'loc': \(('\w+')", body["message"])
        assert problem is not None
        body["message"] = " ".join([body["message"].partition(":")[0], *problem.groups()])
    return found | {"type": kind, "body": body if exact else form(body)}


def said(answer: dict[str, Any]) -> dict[str, Any]:
    """What does not change from run to run in a greedy answer."""
    meta = answer["meta_info"]
    return {
        "text": answer["text"],
        "output_ids": answer["output_ids"],
        "finish_reason": meta["finish_reason"],
        "prompt_tokens": meta["prompt_tokens"],
        "completion_tokens": meta["completion_tokens"],
    }


def check_answer(answer: dict[str, Any]) -> None:
    """What holds of every answer that has ended."""
    meta, ids = answer["meta_info"], answer["output_ids"]
    assert meta["completion_tokens"] == len(ids)
    assert 0 <= meta["cached_tokens"] < max(meta["prompt_tokens"], 1)
    reason = meta["finish_reason"]
    assert reason["type"] in {"stop", "length", "abort"}
    if reason["type"] == "length":
        assert reason["length"] == meta["completion_tokens"]
    assert meta["e2e_latency"] >= 0
    assert isinstance(meta["id"], str)
    if "output_token_logprobs" in meta:
        check_logprobs(meta, ids)


def check_logprobs(meta: dict[str, Any], ids: list[int]) -> None:
    """Log-probabilities: as many as tokens, the token's own among the likeliest, none above 0."""
    output = meta["output_token_logprobs"]
    assert len(output) == meta["output_token_logprobs_length"]
    assert [entry[1] for entry in output] == ids
    given = meta["input_token_logprobs"]
    if given:
        assert given[0][0] is None
        assert all(entry[0] is not None for entry in given[1:])
    assert all(value is None or value <= 1e-6 for value, *_ in [*given, *output])
    for rows, tokens in (("input_top_logprobs", given), ("output_top_logprobs", output)):
        if rows not in meta:
            continue
        if not ids and rows == "output_top_logprobs":
            assert len(meta[rows]) == 1  # what would have been likeliest next
            continue
        assert len(meta[rows]) == len(tokens)
        for row, (value, *_) in zip(meta[rows], tokens, strict=True):
            if row is None:
                assert value is None
                continue
            values = [entry[0] for entry in row]
            assert values == sorted(values, reverse=True)
            assert value <= values[0] + 1e-6


def check_stream(events: list[dict[str, Any]], count: int = 1) -> list[dict[str, Any]]:
    """What holds of every stream; gives the last event of each sequence, in their order."""
    last = []
    assert {event.get("index", 0) for event in events} == set(range(count))
    for index in range(count):
        own = [event for event in events if event.get("index", 0) == index]
        assert len({event["meta_info"]["id"] for event in own}) == 1
        ends = [event["meta_info"]["finish_reason"] is not None for event in own]
        assert ends == [False] * (len(own) - 1) + [True]
        for earlier, later in itertools.pairwise(own):
            assert later["text"].startswith(earlier["text"])
            assert later["output_ids"][: len(earlier["output_ids"])] == earlier["output_ids"]
            assert later["meta_info"]["completion_tokens"] >= earlier["meta_info"]["completion_tokens"]
        assert not any("\ufffd" in event["text"] for event in own[:-1])
        check_answer(own[-1])
        last.append(own[-1])
    return last
