"""Both clients with servers of older and newer SGLang releases."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from support.clients import KINDS, connected
from support.scripted_server import MODEL_INFO, Reply, ScriptedServer, cumulative, stream

from nbruntime import errors

LOADS = {"loads": [{"dp_rank": 0, "num_running_reqs": 1, "num_total_tokens": 7}]}
OLD_INFO = {"model_path": "old", "tokenizer_path": "/nowhere/old", "is_generation": True}
GENERATIONS: dict[str, dict[str, Any]] = {
    # Routes and shapes as the code of each release has them.
    "0.4.10.post2": {
        "/get_model_info": {**OLD_INFO, "preferred_sampling_params": None},
        "/get_server_info": {"version": "0.4.10.post2", "stream_output": False, "internal_states": [{}]},
        "/get_load": {"load": 7},
    },
    "0.5.2": {
        "/get_model_info": {**OLD_INFO, "preferred_sampling_params": None, "weight_version": "default"},
        "/get_server_info": {"version": "0.5.2", "stream_output": True, "internal_states": [{}]},
        "/get_load": {"load": 7},
    },
    "between": {
        "/model_info": OLD_INFO,
        "/get_model_info": OLD_INFO,
        "/server_info": {"version": "0.5.8", "internal_states": [{}]},
        "/get_load": [{"dp_rank": 0, "num_reqs": 1, "num_waiting_reqs": 0, "num_tokens": 7, "ts_tic": 1.0}],
        "/tokenize": {"tokens": [5, 6], "count": 2, "max_model_len": 100},
    },
    "0.5.23": {
        "/model_info": MODEL_INFO,
        "/server_info": {"version": "0.5.23", "incremental_streaming_output": False},
        "/v1/loads": LOADS,
        "/tokenize": {"tokens": [5, 6], "count": 2, "max_model_len": 100},
    },
}


def events_of(version: str, words: list[str], rid: str) -> list[dict[str, Any]]:
    """The events of a stream as each release sends them."""
    made = cumulative(words, rid)
    for place, event in enumerate(made):
        if version == "0.4.10.post2":
            del event["output_ids"]  # text only
        elif version == "0.5.2":
            event["output_ids"] = event["output_ids"][place:]  # --stream-output: text in whole, ids in parts
        elif version == "between":
            event["text"], event["output_ids"] = words[place], event["output_ids"][place:]
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", GENERATIONS)
def test_servers_of_every_age(kind: str, version: str) -> None:
    words = ["a", "a", "b", " c"]
    with ScriptedServer() as server:
        for route in ("/model_info", "/server_info"):
            server.forget(route)
        for route, body in GENERATIONS[version].items():
            server.on(route, Reply(json=body))
        server.on(
            "/generate",
            lambda asked: (
                stream(*events_of(version, words, asked.json["rid"]))
                if asked.json.get("stream")
                else Reply(json=events_of(version, ["a"], asked.json["rid"])[0])
            ),
        )
        # A stream may be the first thing that an asynchronous client asks for.
        with connected(kind, server.url, **({"connect": False} if kind == "async" else {})) as client:
            reading = client.read("x")
            assert client.call("get_model_name") in ("old", "scripted-model")
            assert reading.error is None
            assert reading.texts == words
            generation = reading.stream.generations[0]
            assert generation.text == "aab c"
            assert generation.completion_tokens == 4
            assert generation.output_ids == ([] if version == "0.4.10.post2" else [100, 101, 102, 103])
            assert client.call("complete", "x").text == "a"
            assert [load.num_total_tokens for load in client.call("loads")] == [7]
            assert client.call("get_server_info")["version"]
            if "/tokenize" in GENERATIONS[version]:
                assert client.call("tokenize", "x") == [5, 6]
            else:
                with pytest.raises(errors.NotFoundError):
                    client.call("tokenize", "x")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # old: the template is a guess
                assert client.call("chat", "Hello").text == "a"
    print(f"{version}: {sorted({asked.path for asked in server.asked})}")
