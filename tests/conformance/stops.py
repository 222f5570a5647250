"""Checks of what ends an answer: stop texts, patterns and tokens, special ones among them."""

from __future__ import annotations

from typing import Any

from support.embedded_server import CHAT
from support.server_client import ServerClient

from conformance.suite import PROMPT, check, check_answer, check_stream, said

STOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "the end token's text": (CHAT, {"stop": "<|im_end|>"}),
    "the end token's text, although it is ignored": (CHAT, {"stop": "<|im_end|>", "ignore_eos": True}),
    "the end token's text, before many tokens": (CHAT, {"stop": "<|im_end|>", "stop_token_ids": [2]}),
    "another special token's text": (PROMPT, {"stop": "<|im_start|>", "logit_bias": {"1": 100}}),
    "text before a special token": (CHAT, {"stop": ".<|im_end|>", "ignore_eos": True}),
    "text behind a special token": (CHAT, {"stop": "<|im_end|>\n", "ignore_eos": True}),
    "text around a special token": (CHAT, {"stop": ".\n", "ignore_eos": True}),
    "a pattern of special tokens": (CHAT, {"stop_regex": r"<\|im_[a-z]+\|>"}),
    "a pattern that is its own text": (PROMPT, {"stop_regex": "ar"}),
    "text inside of a token": (PROMPT, {"stop": "ar"}),
    "several texts in one token": (PROMPT, {"stop": ["zz", "ris", "Paris"]}),
    "several texts in one token, the longer first": (PROMPT, {"stop": ["Paris", "ris"]}),
    "a text and a pattern in one token": (PROMPT, {"stop": ["ris"], "stop_regex": ["P"]}),
    "several patterns in one token": (PROMPT, {"stop_regex": ["zz", "[a-z]is", "P"]}),
    "tokens outside of the vocabulary": (PROMPT, {"stop_token_ids": [-1, 49152, 2**40, 2**63 - 1]}),
    "tokens outside of the vocabulary and one inside": (PROMPT, {"stop_token_ids": [49152, 7042]}),
}

SHOWN: dict[str, dict[str, Any]] = {
    "trimmed": {},
    "trimmed, special tokens shown": {"skip_special_tokens": False},
    "kept": {"no_stop_trim": True},
    "kept, special tokens shown": {"no_stop_trim": True, "skip_special_tokens": False},
}


def _enter_stop(name: str) -> None:
    prompt, params = STOPS[name]

    @check(f"stops: {name}")
    def stop(server: ServerClient) -> Any:
        found = {}
        for shown, options in SHOWN.items():
            answer = server.generate(prompt, max_new_tokens=12, **params, **options)
            check_answer(answer)
            found[shown] = said(answer)
        return found


for _name in STOPS:
    _enter_stop(_name)


@check("stops: one for each of a batch")
def _(server: ServerClient) -> Any:
    each = [{"stop": "ris"}, {"stop": "<|im_end|>"}, {"stop_token_ids": [30]}]
    params = [{"temperature": 0, "max_new_tokens": 12, **stop} for stop in each]
    answers = server.generate([PROMPT, CHAT, PROMPT], fields={"sampling_params": params})
    return [said(answer) for answer in answers]


@check("stops: streamed")
def _(server: ServerClient) -> Any:
    found = {}
    for stop in ("<|im_end|>", ".<|im_end|>", "<|im_end|>\n", "<|im_end|>never said"):
        events = server.events(CHAT, max_new_tokens=12, stop=stop, ignore_eos=True)
        (last,) = check_stream(events)
        found[stop] = {"last": said(last), "held": sorted({event["text"] for event in events}, key=len)}
    return found
