"""Checks of a server of the folder that `support.odd_folder` writes."""

from __future__ import annotations

from typing import Any

from support.embedded_server import CHAT
from support.odd_folder import END_OF_MESSAGE
from support.server_client import ServerClient

from conformance.suite import CAPITAL, ODD_FOLDER, PROMPT, check, check_answer, reply, said


def _said(server: ServerClient, prompt: Any, **params: Any) -> dict[str, Any]:
    answer = server.generate(prompt, **params)
    check_answer(answer)
    return said(answer)


@check(f"{ODD_FOLDER}: tokens of texts")
def _(server: ServerClient) -> Any:
    bodies: dict[str, Any] = {
        "words": {"prompt": "Hello world"},
        "several": {"prompt": ["Hello world", ""]},
        "special tokens": {"prompt": "<|im_start|>user\nHi<|im_end|>\n<|eom_id|><repo_name>"},
        "without BOS": {"prompt": "Hello world", "add_special_tokens": False},
        "a conversation": {"messages": [{"role": "user", "content": "Hi"}]},
    }
    return {name: reply(server.post("/tokenize", body), exact=True) for name, body in bodies.items()}


@check(f"{ODD_FOLDER}: answers")
def _(server: ServerClient) -> Any:
    prompts = {"text": PROMPT, "tokens": CAPITAL}
    return {kind: _said(server, prompt, max_new_tokens=8) for kind, prompt in prompts.items()}


@check(f"{ODD_FOLDER}: the end token of the tokenizer")
def _(server: ServerClient) -> Any:
    options: dict[str, dict[str, Any]] = {
        "heeded": {},
        "kept": {"no_stop_trim": True, "skip_special_tokens": False},
        "after some tokens": {"min_new_tokens": 12},
        "ignored": {"ignore_eos": True, "skip_special_tokens": False},
        "as a stop text": {"stop": "<|im_end|>"},
    }
    return {kind: _said(server, CHAT, max_new_tokens=16, **params) for kind, params in options.items()}


@check(f"{ODD_FOLDER}: the end token of a message")
def _(server: ServerClient) -> Any:
    bias = {str(END_OF_MESSAGE): 100}
    options: dict[str, dict[str, Any]] = {
        "heeded": {},
        "kept": {"no_stop_trim": True, "skip_special_tokens": False},
        "after some tokens": {"min_new_tokens": 2},
        "ignored": {"ignore_eos": True, "skip_special_tokens": False},
    }
    return {
        kind: _said(server, PROMPT, max_new_tokens=4, logit_bias=bias, **params)
        for kind, params in options.items()
    }


@check(f"{ODD_FOLDER}: the end token of the configuration")
def _(server: ServerClient) -> Any:
    return _said(server, PROMPT, max_new_tokens=4, logit_bias={"0": 100})


@check(f"{ODD_FOLDER}: the end of a grammar")
def _(server: ServerClient) -> Any:
    # Any of the end tokens may be the last: SGLang's grammars know the configuration's only.
    answer = _said(server, PROMPT, max_new_tokens=12, regex=" (Paris|London)\\.")
    return {"text": answer["text"], "ended": answer["finish_reason"]["type"]}
