"""Exchanges recorded with a real SGLang server: our client understands each of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.scripted_server import Reply, ScriptedServer

from nbruntime.endpoint import RuntimeEndpoint
from nbruntime.errors import (
    AuthenticationError,
    BadRequestError,
    GenerationAbortedError,
    NotFoundError,
    ServerFailureError,
    StreamError,
)
from nbruntime.generation import Generation, GenerationStream
from nbruntime.protocol.failures import error_of_response
from nbruntime.protocol.requests import OPTION_NAMES, build_generate_request

RECORDS = Path(__file__).parents[1] / "data" / "sglang_records"


def load(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((RECORDS / f"{name}.json").read_text())
    return record


def body_of(record: dict[str, Any]) -> bytes:
    if "body_file" in record:
        return (RECORDS / record["body_file"]).read_bytes()
    if "body_text" in record:
        return str(record["body_text"]).encode()
    return json.dumps(record["body"]).encode()


NAMES = sorted(path.stem for path in RECORDS.glob("*.json"))
ERRORS = [name for name in NAMES if load(name)["status"] >= 400]
STREAMS = sorted(path.stem for path in RECORDS.glob("*.sse"))
NOT_OURS = {"generate_batch_empty", "generate_text_and_input_ids"}
"""Requests that our client does not send: no prompt, and two at once."""

GENERATED = [
    name
    for name in NAMES
    if name not in NOT_OURS
    and (record := load(name))["status"] == 200
    and record["request"]["path"] == "/generate"
    and isinstance(record.get("body"), dict | list)
]

CLASSES = {
    400: BadRequestError,
    401: AuthenticationError,
    403: AuthenticationError,
    404: NotFoundError,
    405: NotFoundError,
    500: ServerFailureError,
}

WORDS = {  # the five shapes, and what is in them
    "auth_generate_none": "Unauthorized",
    "generate_json_schema_as_object": "invalid type: map, expected a string",
    "generate_err_top_p_2": "top_p must be in (0, 1], got 2.",
    "generate_input_ids_empty": "input_ids cannot be empty.",
    "chat_err_no_messages": "Messages cannot be empty.",
    "get_nope": "Not Found",
    "load_lora": "LoRA is not enabled. Please set `--enable-lora` to enable LoRA.",
    "get_list_external_corpora": "Ngram speculative decoding is not enabled.",
    "stop_profile_not_running": "Internal Server Error",
    "get_v1_models_nope": "The model 'nope' does not exist",
}


def test_the_records_are_there() -> None:
    print(f"{len(ERRORS)} errors, {len(STREAMS)} streams, {len(GENERATED)} answers")
    assert len(ERRORS) > 60
    assert len(STREAMS) > 10
    assert len(GENERATED) > 30


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    record = load(name)
    error = error_of_response(record["status"], body_of(record), where="http://127.0.0.1/there")
    assert type(error) is CLASSES[record["status"]]
    assert error.status == record["status"]
    assert error.server_message
    assert not error.server_message.startswith("{")
    first, second = str(error).splitlines()[0], str(error).splitlines()[-1]
    assert first.startswith(f"The server answered {record['status']} ")
    assert second == error.hint
    if name in WORDS:
        assert error.server_message == WORDS[name]
    assert error.server_message in _strings(record.get("body", body_of(record).decode()))


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value.strip()]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in _strings(part)]


def last_events(data: bytes) -> dict[int, dict[str, Any]]:
    """The last event of each item, read in the plainest way."""
    last: dict[int, dict[str, Any]] = {}
    for line in data.decode().split("\n"):
        if line.startswith("data: {"):
            event = json.loads(line[6:])
            last[event.get("index", 0)] = event
    return last


def replay(data: bytes, count: int, piece: int, aborted: list[Any] | None = None) -> GenerationStream:
    pieces = [data[at : at + piece] for at in range(0, len(data), piece)]
    prompts: Any = "?" if count == 1 else ["?"] * count
    request = build_generate_request(prompts, stream=True)
    return GenerationStream(
        iter(pieces),
        request,
        close=lambda: None,
        abort=lambda rids: (aborted if aborted is not None else []).append(rids),
    )


@pytest.mark.parametrize("piece", [1, 7, 1000, 1_000_000])
@pytest.mark.parametrize("name", [n for n in STREAMS if n.startswith("generate_") and "error" not in n])
def test_streams(name: str, piece: int) -> None:
    data = (RECORDS / f"{name}.sse").read_bytes()
    last = last_events(data)
    aborted: list[Any] = []
    stream = replay(data, len(last), piece, aborted)
    texts = dict.fromkeys(last, "")
    for index, text in stream.indexed():
        texts[index] += text
    result = stream.result()
    generations = result if isinstance(result, list) else [result]
    assert len(generations) == len(last)
    for index, generation in enumerate(generations):
        event = last[index]
        assert generation.text == texts[index] == event["text"]
        assert generation.output_ids == event["output_ids"]
        assert generation.meta_info == event["meta_info"]
        assert generation.index == index
        assert generation.completion_tokens == len(event["output_ids"])
        assert generation.finish_reason is not None
        assert generation.timings.total is not None
        assert len(generation.timings.itl) < max(len(event["output_ids"]), 1)
    assert aborted == []


def test_a_stream_with_logprobs() -> None:
    data = (RECORDS / "generate_stream_logprob.sse").read_bytes()
    generation = replay(data, 1, 100).result()
    assert isinstance(generation, Generation)
    assert [token.text for token in generation.tokens] == [" Paris", ".", "\n", "\n"]
    assert generation.tokens[0].logprob == pytest.approx(-0.26059597730636597)
    assert [token.text for token in generation.tokens[0].top] == [" Paris", " the"]
    assert [token.text for token in generation.input_tokens] == ["The", " capital", " of", " France", " is"]
    assert generation.input_tokens[0].logprob is None
    deltas = list(replay(data, 1, 100).deltas())
    assert [len(delta.meta_info["output_token_logprobs"]) for delta in deltas] == [1] * 4


@pytest.mark.parametrize("name", [n for n in STREAMS if "stream_error" in n])
def test_error_events(name: str) -> None:
    data = (RECORDS / f"{name}.sse").read_bytes()
    words = json.loads(data[6 : data.index(b"\n")])["error"]["message"]
    aborted: list[Any] = []
    stream = replay(data, 1, 10, aborted)
    with pytest.raises(StreamError, match=re.escape(words)) as caught:
        list(stream)
    assert caught.value.status == 400
    assert caught.value.text == ""
    assert aborted == []  # the server has ended it


def test_a_stream_that_was_aborted_keeps_its_text() -> None:
    data = (RECORDS / "abort_running_stream.sse").read_bytes()
    stream = replay(data, 1, 50)
    texts = []
    with pytest.raises(GenerationAbortedError, match="Aborted") as caught:
        texts.extend(stream)
    assert caught.value.text == last_events(data)[0]["text"] == stream.text
    assert caught.value.generation is not None
    assert caught.value.generation.completion_tokens == 16


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


@pytest.mark.parametrize("name", GENERATED)
def test_answers(server: ScriptedServer, name: str) -> None:
    record = load(name)
    body, asked = record["body"], record["request"]["body"]
    prompt = asked.get("text", asked.get("input_ids"))
    server.on("/generate", Reply(json=body))
    options = {option: value for option, value in asked.items() if option in OPTION_NAMES}
    params = asked["sampling_params"]
    if isinstance(params, dict) and params.get("n") == 0:
        params = {name: value for name, value in params.items() if name != "n"}  # SGLang lets it pass
    with RuntimeEndpoint(server.url) as endpoint:
        result = endpoint.complete(prompt, sampling_params=params, rid=asked.get("rid"), **options)
        sent = server.to("/generate")[0].json
    assert isinstance(result, list) == isinstance(body, list)
    answers = body if isinstance(body, list) else [body]
    for generation, expected in zip(result if isinstance(result, list) else [result], answers, strict=True):
        assert generation.text == expected["text"]
        assert generation.output_ids == expected["output_ids"]
        assert generation.meta_info == expected["meta_info"]
        assert generation.prompt_tokens == expected["meta_info"]["prompt_tokens"]
        assert generation.cached_tokens == expected["meta_info"]["cached_tokens"]
        assert len(generation.tokens) == len(expected["output_ids"])
        assert Generation.from_dict(json.loads(json.dumps(generation.to_dict()))).text == generation.text
    # What was recorded is what we send for the same arguments.
    for field in ("text", "input_ids", "sampling_params", *options):
        if field in asked and asked["sampling_params"] == params:
            assert sent[field] == asked[field]


def test_an_abort_of_an_answer_that_is_not_streamed(server: ScriptedServer) -> None:
    server.on("/generate", Reply(body=(RECORDS / "abort_running_nonstream.body").read_bytes()))
    with (
        RuntimeEndpoint(server.url) as endpoint,
        pytest.raises(GenerationAbortedError, match="Aborted") as caught,
    ):
        endpoint.complete("Once upon a time")
    assert caught.value.text.startswith(", the city of Nova Haven")
