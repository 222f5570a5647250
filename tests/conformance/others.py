"""Checks of tokens, profiles, and the routes that clients here do not need."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from support.server_client import ServerClient

from conformance.suite import CAPITAL, PROMPT, check, reply


@check("tokens: of texts")
def _(server: ServerClient) -> Any:
    bodies: dict[str, Any] = {
        "one": {"prompt": PROMPT},
        "several": {"prompt": [PROMPT, "Hi 🙂"]},
        "none": {"prompt": ""},
        "without special tokens": {"prompt": PROMPT, "add_special_tokens": False},
        "a conversation": {"messages": [{"role": "user", "content": "Hi"}]},
        "a conversation with a system message": {
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
        },
    }
    return {name: reply(server.post("/tokenize", body), exact=True) for name, body in bodies.items()}


@check("tokens: of messages in parts")
def _(server: ServerClient) -> Any:
    one, two = {"type": "text", "text": "What is the"}, {"type": "text", "text": "capital of France?"}
    contents: dict[str, Any] = {"one": [one], "two": [one, two], "none": []}
    found = {
        name: reply(
            server.post("/tokenize", {"messages": [{"role": "user", "content": content}]}), exact=True
        )
        for name, content in contents.items()
    }
    calls = [{"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}]
    talk = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "user", "content": [two]},
    ]
    refused: dict[str, Any] = {
        "nonsense": {"type": "nonsense"},
        "an image": {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/cat.png"}},
        "a text without a type": {"text": "Hi"},
        "a text alone": "Hi",
    }
    for name, part in refused.items():
        body = {"messages": [{"role": "user", "content": [part]}]}
        found[name] = server.post("/tokenize", body).status_code
    return found | {"a tool's call": reply(server.post("/tokenize", {"messages": talk}), exact=True)}


@check("tokens: back to texts")
def _(server: ServerClient) -> Any:
    bodies: dict[str, Any] = {
        "one": {"tokens": CAPITAL},
        "several": {"tokens": [CAPITAL, [504]]},
        "with special tokens": {"tokens": [1, *CAPITAL, 2], "skip_special_tokens": False},
        "none": {"tokens": []},
    }
    return {name: reply(server.post("/detokenize", body), exact=True) for name, body in bodies.items()}


@check("tokens: errors")
def _(server: ServerClient) -> Any:
    return {
        "no prompt": reply(server.post("/tokenize", {})),
        "a number": reply(server.post("/tokenize", {"prompt": 5})),
        "a text": reply(server.post("/detokenize", {"tokens": "abc"})),
    }


@check("profile: start and stop")
def _(server: ServerClient) -> Any:
    with TemporaryDirectory() as folder:
        body = {"output_dir": folder, "activities": ["CPU"]}
        started = server.post("/start_profile", body)
        server.generate(PROMPT, max_new_tokens=2)
        stopped = server.post("/stop_profile")
        files = [path.name for path in Path(folder).rglob("*.trace.json.gz")]
        again = server.post("/stop_profile")
    assert len(files) == 1
    assert files[0].endswith("-TP-0.trace.json.gz")
    return {
        "start": [started.status_code, started.text],
        "stop": [stopped.status_code, stopped.text],
        "stop again": [again.status_code, again.text.partition(":")[0]],
    }


@check("embeddings of a model that generates")
def _(server: ServerClient) -> Any:
    return reply(server.post("/encode", {"text": PROMPT}), exact=True)


OTHER_ROUTES: dict[str, Any] = {
    "/v1/chat/completions": {
        "model": "default",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 2,
    },
    "/v1/completions": {"model": "default", "prompt": PROMPT, "max_tokens": 2},
    "/v1/score": {"query": "Yes? ", "items": ["a"], "label_token_ids": [7042], "model": "default"},
    "/open_session": {"capacity_of_str_len": 100, "session_id": "conf"},
    "/close_session": {"session_id": "conf"},
    "/pause_generation": {},
    "/continue_generation": {},
}


@check("other routes: OpenAI's, scores, sessions, pauses")
def _(server: ServerClient) -> Any:
    return {path: server.post(path, body).status_code for path, body in OTHER_ROUTES.items()}
