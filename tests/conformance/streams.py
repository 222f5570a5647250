"""Checks of event streams."""

from __future__ import annotations

import json
from typing import Any

from support.server_client import ServerClient, generate_body, read_events

from conformance.suite import CAPITAL, PROMPT, check, check_stream, form, reply, said

STREAMS: dict[str, tuple[Any, dict[str, Any], dict[str, Any], int]] = {
    "one prompt": (PROMPT, {}, {"max_new_tokens": 12}, 1),
    "a batch": ([PROMPT, "2+2=", "Hello"], {}, {"max_new_tokens": 8}, 3),
    "n answers to a batch": ([PROMPT, "2+2="], {}, {"max_new_tokens": 4, "n": 2}, 4),
    "no new token": (PROMPT, {}, {"max_new_tokens": 0}, 1),
    "a stop text": (PROMPT, {}, {"max_new_tokens": 16, "stop": "\n\nThe answer"}, 1),
    "a regex": (PROMPT, {}, {"max_new_tokens": 12, "regex": " (Paris|London)\\."}, 1),
    "letters of several tokens": ("Repeat: 🙂🙂🙂 日本語 🙂", {}, {"max_new_tokens": 24}, 1),
    "log-probabilities": (
        PROMPT,
        {"return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 2},
        {"max_new_tokens": 5},
        1,
    ),
    "every third token": (PROMPT, {}, {"max_new_tokens": 12, "stream_interval": 3}, 1),
}


def _enter_stream(name: str) -> None:
    prompt, fields, params, count = STREAMS[name]

    @check(f"streams: {name}")
    def stream(server: ServerClient) -> Any:
        events = server.events(prompt, fields=fields, **params)
        last = check_stream(events, count)
        found = {"indexed": "index" in events[0], "last": [said(each) for each in last]}
        own = [event for event in events if event.get("index", 0) == 0]
        for event in own:
            table = event["meta_info"].get("output_token_logprobs")
            if table is not None and event["output_ids"]:
                assert [entry[1] for entry in table] == event["output_ids"]
        if count == 1 and "stop" in params:
            assert not any("\n\nThe answer" in event["text"] for event in own)
        return found


for _name in STREAMS:
    _enter_stream(_name)


@check("streams: bytes on the wire")
def _(server: ServerClient) -> Any:
    answer = server.post("/generate", generate_body(PROMPT, {"stream": True}, max_new_tokens=3))
    *blocks, rest = answer.content.decode().split("\n\n")
    assert rest == ""
    assert blocks.pop() == "data: [DONE]"
    assert all(json.loads(block.removeprefix("data: ")) for block in blocks)
    assert all(block.startswith('data: {"') and "\n" not in block for block in blocks)
    return {"status": answer.status_code, "type": answer.headers["Content-Type"].replace(" ", "")}


@check("streams: fields of the first, a middle and the last event")
def _(server: ServerClient) -> Any:
    events = server.events("The sun", max_new_tokens=6)
    assert len(events) >= 3
    return {"first": form(events[0]), "middle": form(events[1]), "last": form(events[-1])}


@check("streams: errors")
def _(server: ServerClient) -> Any:
    def ask(prompt: Any, **params: Any) -> Any:
        answer = server.post("/generate", generate_body(prompt, {"stream": True}, **params))
        if "event-stream" not in answer.headers["Content-Type"]:
            return reply(answer, exact=True)
        return {"status": answer.status_code, "events": list(read_events(answer))}

    return {
        "a wrong value": ask(PROMPT, max_new_tokens=-1),
        "a wrong name": ask(PROMPT, max_tokens=1),
        "too long": ask(CAPITAL * 2000, max_new_tokens=1),
        "two grammars": ask(PROMPT, regex="a", ebnf="b"),
    }
