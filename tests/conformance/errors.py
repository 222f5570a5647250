"""Checks of requests that are refused."""

from __future__ import annotations

from typing import Any

from support.server_client import ServerClient

from conformance.suite import CAPITAL, PROMPT, check, reply

ERRORS: dict[str, Any] = {
    "no prompt": {"sampling_params": {}},
    "a number for a text": {"text": 5},
    "no tokens": {"input_ids": []},
    "an unknown sampling parameter": {"text": PROMPT, "sampling_params": {"max_tokens": 5}},
    "a float for an int": {"text": PROMPT, "sampling_params": {"max_new_tokens": 1.0}},
    "a text for a float": {"text": PROMPT, "sampling_params": {"temperature": "0"}},
    "a schema that is no text": {"text": PROMPT, "sampling_params": {"json_schema": {"type": "object"}}},
    "a negative temperature": {"text": PROMPT, "sampling_params": {"temperature": -1}},
    "top_p of 0": {"text": PROMPT, "sampling_params": {"top_p": 0}},
    "top_k of 0": {"text": PROMPT, "sampling_params": {"top_k": 0}},
    "min_p of 2": {"text": PROMPT, "sampling_params": {"min_p": 2}},
    "frequency_penalty of 3": {"text": PROMPT, "sampling_params": {"frequency_penalty": 3}},
    "repetition_penalty of 0": {"text": PROMPT, "sampling_params": {"repetition_penalty": 0}},
    "min above max": {"text": PROMPT, "sampling_params": {"min_new_tokens": 5, "max_new_tokens": 2}},
    "a negative number of tokens": {"text": PROMPT, "sampling_params": {"max_new_tokens": -1}},
    "more tokens than there is room": {"text": PROMPT, "sampling_params": {"max_new_tokens": 100_000}},
    "a prompt that is too long": {"input_ids": CAPITAL * 2000, "sampling_params": {"max_new_tokens": 1}},
    "two grammars": {"text": PROMPT, "sampling_params": {"regex": "a", "json_schema": "{}"}},
    "a bias for no token": {"text": PROMPT, "sampling_params": {"logit_bias": {"100000": 1}}},
    "logprobs from behind the end": {
        "text": PROMPT,
        "return_logprob": True,
        "logprob_start_len": 99,
        "sampling_params": {"max_new_tokens": 1},
    },
    "names for another number": {"text": [PROMPT, "Hi"], "rid": ["one"]},
    "the same name twice": {"text": [PROMPT, "Hi"], "rid": ["same", "same"]},
    "an unknown adapter": {"text": PROMPT, "lora_path": "nope"},
    "hidden states that are not kept": {"text": PROMPT, "return_hidden_states": True},
    "an unknown session": {"text": PROMPT, "session_params": {"id": "nope"}},
    "JSON that is none": "{",
    "a list": [1, 2],
    "NaN": '{"text": "a", "sampling_params": {"temperature": NaN}}',
}


def _enter_error(name: str) -> None:
    @check(f"errors: {name}")
    def error(server: ServerClient) -> Any:
        answer = server.post("/generate", ERRORS[name])
        return reply(answer, exact=True)


for _name in ERRORS:
    _enter_error(_name)
