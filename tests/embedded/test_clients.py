"""Both clients with the embedded server and a real model: conversations, tokens, load, and leaving."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from support.clients import KINDS, Async, Blocking, connected
from support.embedded_server import EmbeddedServer

from nbruntime import errors, usage

pytestmark = pytest.mark.model

TALK = [
    {"role": "system", "content": "You answer with one word."},
    {"role": "user", "content": "What is the capital of France?"},
]


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, server: EmbeddedServer) -> Iterator[Blocking | Async]:
    with connected(request.param, server.url) as driver:
        yield driver


def test_a_conversation(client: Blocking | Async) -> None:
    answer = client.call("chat", TALK, temperature=0, max_new_tokens=16)
    assert "Paris" in answer.text
    tokens = client.call("tokenize", messages=TALK)
    assert answer.prompt == tuple(tokens)
    assert answer.prompt_tokens == len(tokens)
    written = client.call("detokenize", tokens, skip_special_tokens=False)
    assert written.endswith("<|im_start|>assistant\n")
    assert "You answer with one word." in written
    reading = client.read(TALK, method="stream_chat", temperature=0, max_new_tokens=16)
    assert reading.text == answer.text
    assert usage([answer, *reading.stream.generations]).completion_tokens == 2 * answer.completion_tokens


def test_a_named_template_gives_the_same_answer(server: EmbeddedServer, client: Blocking | Async) -> None:
    own = client.call("chat", TALK, temperature=0, max_new_tokens=16)
    with connected(client.kind, server.url, chat_template_name="chatml") as named:
        answer = named.call("chat", TALK, temperature=0, max_new_tokens=16)
    assert answer.text == own.text
    assert answer.prompt_tokens == own.prompt_tokens


def test_detokenize_reverses_tokenize(client: Blocking | Async) -> None:
    text = "Grüße aus 世界 🎉"
    tokens = client.call("tokenize", text)
    assert client.call("detokenize", tokens) == text
    assert client.call("tokenize", [text, "x"])[0] == tokens
    assert client.call("detokenize", [tokens, tokens]) == [text, text]


def test_load_models_and_times(client: Blocking | Async) -> None:
    answer = client.call("complete", "Once upon a time", temperature=0, max_new_tokens=8)
    assert 0 < answer.server_latency <= answer.timings.total
    assert answer.server_times["queue_time"] >= 0
    (load,) = client.call("loads")
    assert load.max_total_num_tokens > 0
    assert load.num_running_reqs is not None
    (card,) = client.call("models")
    assert card["max_model_len"] > 0
    with pytest.raises(errors.BadRequestError, match="embedding"):
        client.call("embed", "Hello")
    with pytest.raises(errors.BadRequestError, match="Shorten the prompt"):
        client.call("complete", "word " * 20_000)


def test_a_stream_that_is_left_frees_the_server(client: Blocking | Async) -> None:
    stream = client.call("stream", "Once upon a time", max_new_tokens=4000, ignore_eos=True)
    while client.call("loads")[0].num_running_reqs == 0:
        time.sleep(0.01)
    del stream  # forgotten
    since = time.monotonic()
    while client.call("loads")[0].num_running_reqs:
        assert time.monotonic() - since < 10
        time.sleep(0.01)
    took = time.monotonic() - since
    print(f"{client.kind}: the engine was free {took * 1000:.0f} ms after the stream was forgotten")
    assert took < 4  # the answer would take far longer
