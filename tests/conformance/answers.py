"""Checks of whole answers and of the cache."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from support.server_client import ServerClient, generate_body

from conformance.suite import CAPITAL, LONG, PROMPT, check, check_answer, form, reply, said

ANSWERS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "one prompt": (PROMPT, {}, {"max_new_tokens": 6}),
    "tokens": (CAPITAL, {}, {"max_new_tokens": 6}),
    "a batch": ([PROMPT, "2+2=", "Hello"], {}, {"max_new_tokens": 4}),
    "a batch of one": ([PROMPT], {}, {"max_new_tokens": 4}),
    "a batch of tokens": ([CAPITAL, [504]], {}, {"max_new_tokens": 4}),
    "n answers": (PROMPT, {}, {"max_new_tokens": 4, "n": 2}),
    "n answers to a batch": ([PROMPT, "2+2="], {}, {"max_new_tokens": 3, "n": 2}),
    "no new token": (PROMPT, {}, {"max_new_tokens": 0}),
    "a stop text": (PROMPT, {}, {"max_new_tokens": 16, "stop": "answer"}),
    "a stop text, kept": (PROMPT, {}, {"max_new_tokens": 16, "stop": ["zzz", "\n\n"], "no_stop_trim": True}),
    "a stop token": (PROMPT, {}, {"max_new_tokens": 16, "stop_token_ids": [30]}),
    "a stop regex": (PROMPT, {}, {"max_new_tokens": 16, "stop_regex": "[Tt]he [a-z]+"}),
    "empty stops": (PROMPT, {}, {"max_new_tokens": 4, "stop": [], "stop_token_ids": []}),
    "the end of the text": (
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
        {},
        {"max_new_tokens": 16},
    ),
    "the end ignored": (
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
        {},
        {"max_new_tokens": 14, "ignore_eos": True, "skip_special_tokens": False},
    ),
    "at least so many tokens": (PROMPT, {}, {"max_new_tokens": 8, "min_new_tokens": 8, "stop": "\n\n\n"}),
    "a regex": (PROMPT, {}, {"max_new_tokens": 12, "regex": " (Paris|London)\\."}),
    "a grammar": (PROMPT, {}, {"max_new_tokens": 12, "ebnf": 'root ::= " " ("yes" | "no") "!"'}),
    "a JSON schema": (
        "A city as JSON:",
        {},
        {
            "max_new_tokens": 48,
            "json_schema": '{"type":"object","properties":{"ok":{"type":"boolean"}},'
            '"required":["ok"],"additionalProperties":false}',
        },
    ),
    "a bias": (PROMPT, {}, {"max_new_tokens": 2, "logit_bias": {"260": 100}}),
    "a frequency penalty": ("la la la", {}, {"max_new_tokens": 8, "frequency_penalty": 1.5}),
    "a presence penalty": ("la la la", {}, {"max_new_tokens": 8, "presence_penalty": 1.5}),
    "a repetition penalty": ("la la la", {}, {"max_new_tokens": 8, "repetition_penalty": 1.2}),
    "sampling parameters for each": (
        [PROMPT, "2+2="],
        {
            "sampling_params": [
                {"temperature": 0, "max_new_tokens": 2},
                {"temperature": 0, "max_new_tokens": 5},
            ]
        },
        {},
    ),
    "no sampling parameters but a limit": (
        PROMPT,
        {"sampling_params": {"max_new_tokens": 3, "top_k": 1}},
        {},
    ),
    "names of requests": ([PROMPT, "Hi"], {"rid": ["conf-a", "conf-b"]}, {"max_new_tokens": 2}),
    "one name for a batch": ([PROMPT, "Hi"], {"rid": "conf-c"}, {"max_new_tokens": 2}),
    "the prompt's tokens": (PROMPT, {"return_prompt_token_ids": True}, {"max_new_tokens": 2}),
    "text beats tokens": (PROMPT, {"input_ids": [504]}, {"max_new_tokens": 3}),
    "unknown fields": (PROMPT, {"no_such_field": 1}, {"max_new_tokens": 2}),
    "letters of several tokens": ("Repeat: 🙂🙂🙂 日本語 🙂", {}, {"max_new_tokens": 16}),
}


def _enter_answer(name: str) -> None:
    prompt, fields, params = ANSWERS[name]

    @check(f"answers: {name}")
    def whole(server: ServerClient) -> Any:
        answer = server.post("/generate", generate_body(prompt, fields, **params))
        assert answer.status_code == 200, answer.text
        body = answer.json()
        many = body if isinstance(body, list) else [body]
        for each in many:
            check_answer(each)
        found: dict[str, Any] = {"list": isinstance(body, list), "answers": [said(each) for each in many]}
        if "rid" in fields:
            found["ids"] = [each["meta_info"]["id"] for each in many]
        if "prompt_token_ids" in many[0]:
            found["prompt_token_ids"] = [each["prompt_token_ids"] for each in many]
        return found


for _name in ANSWERS:
    _enter_answer(_name)


@check("answers: a JSON schema that leaves other properties open")
def _(server: ServerClient) -> Any:
    schema = '{"type":"object","properties":{"ok":{"type":"boolean"}},"required":["ok"]}'
    answer = server.generate("A city as JSON:", json_schema=schema, max_new_tokens=48)
    check_answer(answer)
    value = json.loads(answer["text"])
    assert isinstance(value["ok"], bool)
    return {"properties": sorted(value), "finish_reason": answer["meta_info"]["finish_reason"]}


@check("answers: fields and their types")
def _(server: ServerClient) -> Any:
    server.post("/flush_cache")
    first = server.generate(PROMPT, max_new_tokens=3)
    second = server.generate(PROMPT, max_new_tokens=3)
    stages = ("request_received_ts", "api_server_dispatch_finish_ts", "forward_entry_time")
    later = ("prefill_finished_time", "request_finished_ts")
    meta = first["meta_info"]
    times = [meta[name] for name in (*stages, *later)]
    assert times == sorted(times)
    assert 0 < meta["first_token_latency"] <= meta["e2e_latency"]
    return {"first": form(first), "cached": form(second["meta_info"]["cached_tokens_details"])}


@check("answers: PUT is POST")
def _(server: ServerClient) -> Any:
    answer = server.request("PUT", "/generate", generate_body(PROMPT, max_new_tokens=3))
    return {"status": answer.status_code, "answer": said(answer.json())}


@check("answers: a seed repeats")
def _(server: ServerClient) -> Any:
    params = {"temperature": 1.0, "max_new_tokens": 12, "sampling_seed": 7}
    one, two = (server.generate(PROMPT, **params) for _ in range(2))
    return {"same": one["output_ids"] == two["output_ids"]}


@check("answers: the samples of a seed differ")
def _(server: ServerClient) -> Any:
    params = {"temperature": 1.5, "max_new_tokens": 12, "sampling_seed": 7, "n": 3}
    answers = server.generate("Once upon a time", **params)
    return {"different": len({tuple(each["output_ids"]) for each in answers})}


@check("answers: sampled ones differ")
def _(server: ServerClient) -> Any:
    answers = server.generate("Once upon a time", temperature=1.5, n=4, max_new_tokens=12)
    for each in answers:
        check_answer(each)
    assert len({each["meta_info"]["id"] for each in answers}) == 4
    return {"several": len({each["text"] for each in answers}) > 1}


@check("answers: at the same time as alone")
def _(server: ServerClient) -> Any:
    prompts = ["The moon", PROMPT, "2+2=", "def add(a, b):", "Once upon a time", "My name is"]
    lengths = [3, 12, 5, 9, 7, 2]
    alone = [
        server.generate(prompt, max_new_tokens=most) for prompt, most in zip(prompts, lengths, strict=True)
    ]
    with ThreadPoolExecutor(len(prompts)) as pool:
        together = list(
            pool.map(lambda prompt, most: server.generate(prompt, max_new_tokens=most), prompts, lengths)
        )
    assert [each["output_ids"] for each in together] == [each["output_ids"] for each in alone]
    return [said(each) for each in alone]


@check("cache: a prefix is computed once")
def _(server: ServerClient) -> Any:
    server.post("/flush_cache")
    prefix = "A long common beginning, which both prompts share and nobody has asked for before. "
    first = server.generate(prefix + "One", max_new_tokens=1)["meta_info"]
    second = server.generate(prefix + "Two", max_new_tokens=1)["meta_info"]
    again = server.generate(prefix + "Two", max_new_tokens=1)["meta_info"]
    flushed = server.post("/flush_cache")
    after = server.generate(prefix + "Two", max_new_tokens=1)["meta_info"]
    return {
        "prompt": first["prompt_tokens"],
        "cached": [each["cached_tokens"] for each in (first, second, again, after)],
        "details": [each["cached_tokens_details"] for each in (first, second)],
        "flush": reply(flushed, exact=True),
    }


@check("cache: a busy server is not flushed")
def _(server: ServerClient) -> Any:
    with server.stream(PROMPT, **LONG) as events:
        next(events)
        answer = server.post("/flush_cache")
    server.post("/abort_request", {"abort_all": True})
    server.wait_idle()
    return reply(answer)
