"""Bad input and load: the server answers with SGLang's status and body, and other requests continue."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.embedded_server import EmbeddedServer
from support.server_client import generate_body, wait_until

from nbruntime.embedded.arguments import parse_arguments
from nbruntime.embedded.engine.profiler import ProfileOptions, StepProfiler
from nbruntime.embedded.engine.scheduler import DecodeStep

PROMPT = "The capital of France is"
STORY = "Once upon a time there was a little robot who wanted to learn how to paint. "

WITNESS_TOKENS = 90


def raw(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def params(**given: Any) -> bytes:
    return raw(json.dumps({"text": PROMPT, "sampling_params": {"max_new_tokens": 2, **given}}))


def body(**given: Any) -> bytes:
    return raw(json.dumps({"text": PROMPT, "sampling_params": {"max_new_tokens": 2}, **given}))


# The three shapes of an error: flat, a text, a message.
FLAT, TEXT, MESSAGE = "flat", "text", "message"

BAD: dict[str, tuple[bytes, str, str]] = {
    # What is no JSON object.
    "nothing": (b"", FLAT, "Field required"),
    "half a body": (b'{"text": "a"', FLAT, "JSON decode error"),
    "a list": (b"[1, 2]", FLAT, "Input should be a dictionary"),
    "NaN": (b'{"text": "a", "sampling_params": {"temperature": NaN}}', FLAT, "NaN is not JSON"),
    "half a surrogate pair": (rb'{"text": "\ud83d"}', FLAT, "half of a surrogate pair"),
    "half a pair in a name": (
        rb'{"text": "a", "sampling_params": {"\udc00": 1}}',
        FLAT,
        "half of a surrogate pair",
    ),
    "no UTF-8": (b'{"text": "\xff\xfe"}', FLAT, "codec can't decode"),
    "UTF-16": ('{"text": "a"}'.encode("utf-16"), FLAT, "codec can't decode"),
    "a deep list": (b"[" * 40_000, FLAT, "JSON decode error"),
    "a deep object": (b'{"text":' * 5_000, FLAT, "JSON decode error"),
    "an endless number": (b'{"text": "a", "priority": 1' + b"0" * 5_000 + b"}", FLAT, "JSON decode error"),
    # Wrong names and types.
    "a number as text": (body(text=5), FLAT, "Input should be a valid string"),
    "words as tokens": (body(text=None, input_ids=["a"]), FLAT, "Input should be a valid list"),
    "mixed tokens": (body(text=None, input_ids=[1, [2]]), FLAT, "Input should be a valid"),
    "stream as text": (body(stream="yes"), FLAT, "Input should be a valid boolean"),
    "rid as number": (body(rid=5), FLAT, "Input should be a valid"),
    "an unknown parameter": (params(max_tokens=5), TEXT, "unknown field `max_tokens`, expected one of"),
    "a whole number with a point": (params(max_new_tokens=1.0), TEXT, "invalid type: floating point `1.0`"),
    "a temperature in words": (params(temperature="hot"), TEXT, 'invalid type: string "hot", expected f64'),
    "a schema as object": (params(json_schema={}), TEXT, "invalid type: map, expected a string"),
    # Values that cannot be.
    "no prompt": (raw('{"sampling_params": {}}'), MESSAGE, "Either text, input_ids or input_embeds"),
    "an empty text": (body(text=""), MESSAGE, "text cannot be empty"),
    "an empty text in a batch": (body(text=["a", ""]), MESSAGE, "text cannot be empty"),
    "no tokens": (body(text=None, input_ids=[]), MESSAGE, "input_ids cannot be empty"),
    "no tokens in a batch": (body(text=None, input_ids=[[1], []]), MESSAGE, "input_ids cannot be empty"),
    "a token beyond": (body(text=None, input_ids=[49152]), MESSAGE, "out-of-vocabulary token id 49152"),
    "a token below": (body(text=None, input_ids=[1, -1]), MESSAGE, "out-of-vocabulary token id -1"),
    "a token far beyond": (body(text=None, input_ids=[10**30]), MESSAGE, "out-of-vocabulary token id 1000"),
    "a bias beyond": (params(logit_bias={"49152": 1}), MESSAGE, "logit_bias must has keys in [0, 49151]"),
    "a stop token beyond": (params(stop_token_ids=[50000]), MESSAGE, "stop_token_ids must be in [0, 49151]"),
    "a prompt beyond the context": (
        body(text=None, input_ids=[5] * 9000),
        MESSAGE,
        "The input (9000 tokens) is longer",
    ),
    "an answer beyond the context": (params(max_new_tokens=9000), MESSAGE, "Requested token count exceeds"),
    "a negative length": (params(max_new_tokens=-1), MESSAGE, "max_new_tokens must be at least 0, got -1."),
    "a negative temperature": (params(temperature=-1), MESSAGE, "temperature must be a non-negative finite"),
    "an infinite temperature": (
        b'{"text": "a", "sampling_params": {"temperature": 1e999}}',
        MESSAGE,
        "temperature must be a non-negative finite",
    ),
    "a temperature of 400 digits": (params(temperature=10**400), TEXT, "number out of range, expected f64"),
    "a bias of 400 digits": (params(logit_bias={"5": 10**400}), TEXT, "number out of range, expected f64"),
    "a bias beyond 32 bits": (params(logit_bias={"5": 1e300}), MESSAGE, "values in [-1e+30, 1e+30]"),
    "an infinite bias": (
        b'{"text": "a", "sampling_params": {"logit_bias": {"5": -1e999}}}',
        MESSAGE,
        "values in [-1e+30, 1e+30]",
    ),
    "an n of 1000 digits": (params(n=10**1000), MESSAGE, "more answers than"),
    "top_p of 0": (params(top_p=0), MESSAGE, "top_p must be in (0, 1], got 0."),
    "top_k of 0": (params(top_k=0), MESSAGE, "top_k must be -1 (disable) or at least 1, got 0."),
    "min_p of 2": (params(min_p=2), MESSAGE, "min_p must be in [0, 1], got 2."),
    "a penalty of 3": (params(frequency_penalty=3), MESSAGE, "frequency_penalty must be in [-2, 2], got 3."),
    "a seed of 65 bits": (
        params(sampling_seed=2**64),
        MESSAGE,
        "sampling_seed must be in [-2**63, 2**63 - 1]",
    ),
    "a huge n": (params(n=10**9), MESSAGE, "n=1000000000"),
    "many stop strings": (params(stop=["x"] * 33), MESSAGE, "stop accepts at most 32 strings, got 33."),
    "two grammars": (params(regex="a", ebnf="b"), MESSAGE, "Only one of json_schema, regex, ebnf"),
    "a bad regex": (params(regex="(("), MESSAGE, "Failed to compile regex grammar"),
    "a bad schema": (params(json_schema="not json"), MESSAGE, "Failed to compile json grammar"),
    "an impossible schema": (
        params(json_schema='{"type": "string", "minLength": 5, "maxLength": 1}'),
        MESSAGE,
        "Failed to compile json grammar",
    ),
    "a deep schema": (params(json_schema="[" * 40_000), MESSAGE, "Failed to compile json grammar"),
    "a foreign schema": (
        params(json_schema='{"$ref": "http://127.0.0.1:1/x"}'),
        MESSAGE,
        "Failed to compile json",
    ),
    "a bad ebnf": (params(ebnf="root ::= unknown"), MESSAGE, "Failed to compile ebnf grammar"),
    "an endless ebnf": (params(ebnf="root ::= root"), MESSAGE, "grammar"),
    "a structural tag": (params(structural_tag="{}"), MESSAGE, "structural_tag is not served"),
    "a bad stop_regex": (params(stop_regex="("), MESSAGE, "is not a pattern"),
    "a stop_regex of a thousand million": (
        params(stop_regex="((a{1000}){1000}){1000}"),
        MESSAGE,
        "repeats too much",
    ),
    "a long stop_regex": (params(stop_regex="a" * 257), MESSAGE, "at most 256 bytes"),
    "logprobs from beyond": (
        body(return_logprob=True, logprob_start_len=6),
        MESSAGE,
        "req.logprob_start_len=6",
    ),
    "too many top logprobs": (body(return_logprob=True, top_logprobs_num=10**9), MESSAGE, "top_logprobs_num"),
    "logprobs of no token": (body(return_logprob=True, token_ids_logprob=[-5]), MESSAGE, "token id -5"),
    "equal rids": (body(text=["a", "b"], rid=["x", "x"]), MESSAGE, "Duplicate request IDs"),
    "too few rids": (body(text=["a", "b"], rid=["x"]), MESSAGE, "rids length mismatch"),
    "different n": (
        body(text=["a", "b"], sampling_params=[{"n": 1}, {"n": 2}]),
        MESSAGE,
        "parallel_sample_num should be the same",
    ),
    "an adapter": (body(lora_path="x"), MESSAGE, "LoRA is not enabled"),
    "hidden states": (body(return_hidden_states=True), MESSAGE, "not configured to return hidden states"),
    "embeddings as prompt": (body(text=None, input_embeds=[[0.1]], input_ids=[1]), MESSAGE, "input_embeds"),
    "a session": (body(session_params={"id": "s"}), MESSAGE, "session id s does not exist"),
    "beam search": (params(beam_width=4), MESSAGE, "beam_width"),
}
"""Bodies of /generate that are answered with status 400: the body, the shape of the error, words of it."""


def check_bad(server: EmbeddedServer, name: str) -> None:
    sent, shape, words = BAD[name]
    answer = server.post("/generate", sent)
    assert answer.status_code == 400, answer.text
    error = answer.json()
    if shape == FLAT:
        assert error.keys() == {"object", "message", "type", "param", "code"}
        assert (error["object"], error["param"], error["code"]) == ("error", None, 400)
        message = error["message"]
    else:
        assert error.keys() == {"error"}
        message = error["error"] if shape == TEXT else error["error"]["message"]
        assert shape == TEXT or error["error"].keys() == {"message"}
    assert words in message
    assert len(answer.content) < 2_000


@pytest.fixture(scope="module")
def alone(server: EmbeddedServer) -> str:
    """The text of an undisturbed stream."""
    text: str = server.generate(PROMPT, max_new_tokens=WITNESS_TOKENS, ignore_eos=True)["text"]
    return text


@contextmanager
def witness(server: EmbeddedServer, alone: str) -> Iterator[None]:
    """A stream that runs meanwhile, and has to say what it says alone."""
    with server.stream(PROMPT, max_new_tokens=WITNESS_TOKENS, ignore_eos=True) as events:
        next(events)
        with ThreadPoolExecutor(1) as pool:
            rest = pool.submit(list, events)
            yield
            assert rest.result()[-1]["text"] == alone


@pytest.mark.model
@pytest.mark.parametrize("name", BAD)
def test_bad_input(server: EmbeddedServer, name: str) -> None:
    check_bad(server, name)


@pytest.mark.model
def test_bad_input_does_not_disturb_other_requests(server: EmbeddedServer, alone: str) -> None:
    with witness(server, alone):
        for name in BAD:
            check_bad(server, name)
        running = server.load()["num_running_reqs"]
    assert running == 1, "the stream ended before all bad requests were sent"


@pytest.mark.model
def test_bad_values_in_a_stream_are_reported_as_an_event(server: EmbeddedServer) -> None:
    (event,) = server.events(PROMPT, max_new_tokens=9000)
    assert event["error"].keys() == {"message", "type", "code", "retryable"}
    assert (event["error"]["type"], event["error"]["code"]) == ("invalid_request_error", 400)
    unread = server.post("/generate", body(stream=True, text=5))
    assert unread.status_code == 400


@pytest.mark.model
def test_bad_bodies_of_other_routes(server: EmbeddedServer) -> None:
    tries = [
        ("/abort_request", b"{}x", 400),
        ("/abort_request", b'{"rid": 5}', 400),
        ("/abort_request", rb'{"rid": "\ud800"}', 400),
        ("/tokenize", b"{}", 400),
        ("/tokenize", rb'{"prompt": "\ud800"}', 400),
        ("/tokenize", b'{"prompt": ["a", 5]}', 400),
        ("/tokenize", b'{"messages": [{"role": 5}]}', 400),
        ("/tokenize", b'{"messages": [{}]}', 400),
        ("/detokenize", b'{"tokens": [1, [2]]}', 400),
        ("/detokenize", b'{"tokens": [-1]}', 400),
        ("/detokenize", b'{"tokens": [1' + b"0" * 30 + b"]}", 400),
        ("/encode", b'{"text": "a"}', 400),
        ("/flush_cache?timeout=nan", None, 400),
        ("/start_profile", b'{"num_steps": "many"}', 400),
        ("/start_profile", b'{"num_steps": 1e999}', 400),
        ("/start_profile", b'{"output_dir": 5}', 400),
        ("/start_profile", rb'{"output_dir": "a\u0000b"}', 400),
        ("/start_profile", b'{"profile_id": "../elsewhere"}', 400),
        ("/start_profile", b'{"output_dir": "/dev/null/x"}', 500),
        ("/nothing", b"{}", 404),
    ]
    for path, sent, status in tries:
        answer = server.post(path, sent)
        assert answer.status_code == status, (path, sent, answer.text)
    for path, sent in (("/tokenize", {"text": "a" * 10_000}), ("/detokenize", {"ids": [1] * 10_000})):
        assert len(server.post(path, sent).text) < 1000, "what was sent comes back with what is wrong in it"
    stop = server.post("/stop_profile")
    assert (stop.status_code, stop.text[:21]) == (500, "Internal Server Error"), (
        "no profile was to be started"
    )


@pytest.mark.model
def test_garbage_on_the_socket(server: EmbeddedServer, alone: str) -> None:
    address = urlsplit(server.url)
    garbage = [
        os.urandom(3000),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # the beginning of TLS
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",  # and no more
        b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
        b"GET /v1/models/%ff%00 HTTP/1.1\r\nHost: x\r\n\r\n",
    ]
    with witness(server, alone):
        for each in garbage:
            with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
                connection.sendall(each)
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(100)
            status = re.match(rb"HTTP/1\.[01] (\d+)", answer)
            assert not answer or (status is not None and int(status[1]) < 500), (each[:60], answer)
    assert server.get("/health").status_code == 200


@pytest.mark.model
@pytest.mark.parametrize(
    "text",
    [
        "😀🎉👨‍👩‍👧‍👦",
        "日本語",
        "a\0b",
        "\ufeffbom",
        "e\u0301\u0323",
        "שלום",
        "\r\n\t\x0b",
        "\u2028\u2029",
        "<|im_end|>",
        "\U0010ffff",
    ],
    ids=ascii,
)
def test_any_text_is_a_prompt(server: EmbeddedServer, text: str) -> None:
    answer = server.generate(
        text, fields={"rid": f"{text}!", "return_prompt_token_ids": True}, max_new_tokens=2
    )
    assert answer["meta_info"]["id"] == f"{text}!"
    tokens = server.post("/tokenize", {"prompt": text, "add_special_tokens": False}).json()["tokens"]
    assert answer["prompt_token_ids"] == tokens
    back = server.post("/detokenize", {"tokens": tokens, "skip_special_tokens": False}).json()["text"]
    assert back == text


# --- who may, and how much ---------------------------------------------------------------------------

ROUTES = {
    "open": [("GET", "/health"), ("GET", "/health_generate"), ("GET", "/ready"), ("GET", "/metrics")],
    "user": [
        *(
            ("GET", "/"),
            ("GET", "/ping"),
            ("GET", "/model_info"),
            ("GET", "/server_info"),
            ("GET", "/v1/models"),
        ),
        *(("GET", "/v1/loads"), ("POST", "/generate"), ("PUT", "/generate"), ("POST", "/encode")),
        *(
            ("POST", "/tokenize"),
            ("POST", "/detokenize"),
            ("GET", "/nothing"),
            ("POST", "/v1/chat/completions"),
        ),
    ],
    "admin": [
        *(("GET", "/flush_cache"), ("POST", "/flush_cache"), ("POST", "/abort_request")),
        *(("GET", "/start_profile"), ("POST", "/stop_profile")),
    ],
}


@pytest.mark.model
@pytest.mark.parametrize("kind", ROUTES)
def test_keys(guarded_server: EmbeddedServer, kind: str, tmp_path: Path) -> None:
    user, admin = f"Bearer {guarded_server.api_key}", f"bearer {guarded_server.admin_api_key}"
    entitled = {"open": None, "user": user, "admin": admin}[kind]
    refused: list[str | bytes] = [
        "",
        b"Bearer \xff",
        user if kind == "admin" else admin,
        "Bearer",
        "Bearer sk-tes",
        f"Basic {guarded_server.api_key}",
    ]
    for method, path in ROUTES[kind]:
        for given in refused:
            headers = {"Authorization": given}
            if kind == "open":
                answer = guarded_server.request(method, path, headers=headers)
                assert answer.status_code in (200, 404)  # no metrics were asked for
                continue
            answer = guarded_server.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()) == (401, {"error": "Unauthorized"}), (path, given)
        if entitled is not None:
            sent = {"output_dir": str(tmp_path)} if "profile" in path else {}
            answer = guarded_server.request(method, path, sent, headers={"Authorization": entitled})
            assert answer.status_code != 401
    log = guarded_server.log
    assert str(guarded_server.api_key) not in log
    assert str(guarded_server.admin_api_key) not in log
    assert "sk-" not in guarded_server.get("/server_info").text
    command = Path(f"/proc/{guarded_server.process.pid}/cmdline").read_bytes()
    assert b"sk-" not in command


@pytest.mark.model
def test_a_body_over_the_limit(guarded_server: EmbeddedServer) -> None:
    large = params(stop="x" * 60_000)
    for sent in (large, (part for part in [large[:30_000], large[30_000:]])):  # with a length, and in chunks
        headers = {**guarded_server.headers, "Content-Type": "application/json"}
        answer = guarded_server.request("POST", "/generate", data=sent, headers=headers)
        assert answer.status_code == 413
        assert (
            answer.json()["message"] == "The request body is larger than 50000 bytes; see --max-body-bytes."
        )
    assert guarded_server.generate(PROMPT, max_new_tokens=1)["text"]


@pytest.mark.model
def test_a_full_queue_refuses_requests(guarded_server: EmbeddedServer) -> None:
    """Six run, four wait; the eleventh is told so."""
    prompts = [f"{number} and" for number in range(10)]
    with ThreadPoolExecutor(1) as pool:
        batch = pool.submit(
            guarded_server.generate, prompts, fields={"rid": "ten"}, max_new_tokens=30, ignore_eos=True
        )
        wait_until(lambda: guarded_server.load()["num_waiting_reqs"] == 4)
        plain = guarded_server.post("/generate", generate_body(PROMPT, max_new_tokens=2))
        (event,) = guarded_server.events(PROMPT, max_new_tokens=2)
        assert len(batch.result()) == 10
    message = "The request queue is full."
    assert plain.status_code == 503
    assert plain.json() == {"object": "error", "message": message, "type": "503", "param": None, "code": 503}
    reason = event["meta_info"]["finish_reason"]
    assert (reason["type"], reason["status_code"], reason["message"]) == ("abort", 503, message)
    many = guarded_server.post("/generate", generate_body(PROMPT, max_new_tokens=2, n=11))
    assert many.status_code == 400
    assert "at most 10" in many.json()["error"]["message"]


@pytest.mark.model
def test_one_prompt_overtakes_the_rest_of_a_batch(guarded_server: EmbeddedServer) -> None:
    prompts = [f"{number} and" for number in range(9)]
    with ThreadPoolExecutor(1) as pool:
        batch = pool.submit(guarded_server.generate, prompts, max_new_tokens=24, ignore_eos=True)
        wait_until(lambda: guarded_server.load()["num_waiting_reqs"] == 3)
        guarded_server.generate(PROMPT, max_new_tokens=1)
        assert not batch.done()
        batch.result()


@pytest.mark.model
def test_a_small_cache_answers_as_a_large_one(server: EmbeddedServer, guarded_server: EmbeddedServer) -> None:
    prompts = [f"{number}. {STORY}" for number in range(6)]
    asked: dict[str, Any] = {"return_logprob": True, "top_logprobs_num": 2, "logprob_start_len": 0}
    small = guarded_server.generate(prompts, fields=asked, max_new_tokens=56, ignore_eos=True)
    large = server.generate(prompts, fields=asked, max_new_tokens=56, ignore_eos=True)
    retractions = [answer["meta_info"]["num_retractions"] for answer in small]
    print(f"retractions: {retractions}")
    assert sum(retractions) > 0
    for mine, theirs in zip(small, large, strict=True):
        leads = [row[0][0] - row[1][0] for row in theirs["meta_info"]["output_top_logprobs"]]
        pairs = zip(mine["output_ids"], theirs["output_ids"], strict=True)
        different = next((at for at, pair in enumerate(pairs) if pair[0] != pair[1]), None)
        assert different is None or leads[different] < 1e-3
        for name in ("input_token_logprobs", "output_token_logprobs"):
            ours, recorded = mine["meta_info"][name][1:different], theirs["meta_info"][name][1:different]
            assert len(ours) == len(recorded)
            assert max(abs(a[0] - b[0]) for a, b in zip(ours, recorded, strict=True)) < 1e-3
    guarded_server.wait_idle()
    assert guarded_server.load()["num_used_tokens"] == 0


# --- many, gone, aborted -----------------------------------------------------------------------------


@pytest.mark.model
async def test_two_hundred_concurrent_requests(server: EmbeddedServer) -> None:
    server.post("/flush_cache")
    bodies = [generate_body(f"{number % 50}+1=", max_new_tokens=3) for number in range(200)]
    timeout = aiohttp.ClientTimeout(total=200)
    async with aiohttp.ClientSession(
        server.url, timeout=timeout, connector=aiohttp.TCPConnector(limit=0)
    ) as session:

        async def ask(sent: dict[str, Any]) -> dict[str, Any]:
            async with session.post("/generate", json=sent) as answer:
                assert answer.status == 200
                found: dict[str, Any] = await answer.json()
                return found

        began = time.monotonic()
        answers = await asyncio.gather(*map(ask, bodies))
    print(f"200 requests in {time.monotonic() - began:.1f} s")
    for number in range(50):
        assert len({tuple(answer["output_ids"]) for answer in answers[number::50]}) == 1
    server.wait_idle()
    assert server.load()["num_used_tokens"] == 0


@pytest.mark.model
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
def test_a_disconnected_client_s_request_is_aborted(server: EmbeddedServer, stream: bool) -> None:
    server.wait_idle()
    address = urlsplit(server.url)
    sent = json.dumps(
        generate_body(PROMPT, {"stream": stream}, max_new_tokens=4000, ignore_eos=True)
    ).encode()
    head = [
        "POST /generate HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        f"Content-Length: {len(sent)}",
    ]
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode() + sent)
        wait_until(lambda: server.load()["num_running_reqs"] == 1)
        if stream:
            assert connection.recv(10) == b"HTTP/1.1 2"
    began = time.monotonic()
    wait_until(lambda: server.load()["num_running_reqs"] == 0, seconds=10)
    print(f"gone after {time.monotonic() - began:.2f} s")


@pytest.mark.model
def test_aborted_requests_keep_their_text(server: EmbeddedServer) -> None:
    def ask(rid: str) -> dict[str, Any]:
        answer: dict[str, Any] = server.generate(
            PROMPT, fields={"rid": rid}, max_new_tokens=4000, ignore_eos=True
        )
        return answer

    def said(answer: Future[dict[str, Any]]) -> str:
        found = answer.result(20)
        aborted = {"type": "abort", "message": "Aborted", "status_code": None, "err_type": None}
        assert found["meta_info"]["finish_reason"] == aborted
        assert found["meta_info"]["completion_tokens"] == len(found["output_ids"]) > 0
        text: str = found["text"]
        return text

    with ThreadPoolExecutor(4) as pool:
        answers = {rid: pool.submit(ask, rid) for rid in ("one", "group", "group-2", "other")}
        wait_until(lambda: server.load()["num_running_reqs"] == 4)
        duplicate = server.post("/generate", generate_body("Hi", {"rid": "one"}, max_new_tokens=1))
        assert (duplicate.status_code, duplicate.json()) == (
            400,
            {"error": {"message": "Duplicate request ID detected: one"}},
        )
        assert server.post("/abort_request", {"rid": "unknown"}).status_code == 200
        # A token more for each of them, so that all have said something.
        server.generate(PROMPT, max_new_tokens=3)
        server.post("/abort_request", {"rid": "one"})
        assert said(answers["one"]).startswith(" Paris")
        server.post("/abort_request", {"rid": "grou"})  # no request has this name
        server.post("/abort_request", {"rid": "group"})
        assert said(answers["group"])
        assert said(answers["group-2"])
        assert not answers["other"].done()
        server.post("/abort_request", {"abort_all": True})
        assert said(answers["other"])
    assert server.generate("Hi", fields={"rid": "one"}, max_new_tokens=1)["meta_info"]["id"] == "one"


# --- cache, steps, profile, metrics ------------------------------------------------------------------


@pytest.mark.model
def test_cached_prefixes_and_flushing(server: EmbeddedServer) -> None:
    server.wait_idle()
    assert server.post("/flush_cache").status_code == 200
    first = server.generate(STORY * 4, max_new_tokens=4)["meta_info"]
    assert (first["cached_tokens"], first["cached_tokens_details"]) == (0, None)
    longer = server.generate(STORY * 4 + "It began with", max_new_tokens=4)["meta_info"]
    assert longer["cached_tokens"] >= first["prompt_tokens"] - 1
    assert longer["cached_tokens_details"] == {"device": longer["cached_tokens"], "host": 0}
    with server.stream(PROMPT, max_new_tokens=4000, ignore_eos=True) as events:
        next(events)
        busy = server.post("/flush_cache")
        assert busy.status_code == 400
        assert "Flush cache failed" in busy.text
        waiting = ThreadPoolExecutor(1).submit(server.get, "/flush_cache?timeout=20")
    assert waiting.result().status_code == 200  # the stream was left
    assert server.generate(STORY * 4, max_new_tokens=4)["meta_info"]["cached_tokens"] == 0


@pytest.mark.model
def test_other_requests_do_not_stall_a_stream(server: EmbeddedServer, alone: str) -> None:
    long = "".join(f"{number}. {STORY}" for number in range(40))
    slow = {"stop_regex": [f"(a|aa)+b{number}" for number in range(32)], "logit_bias": {"81": 100}}
    bodies = {
        "a long prompt": generate_body(long, max_new_tokens=1),
        "many long texts": generate_body(
            [*(f"{number} " + "hello " * 8000 for number in range(120)), ""], max_new_tokens=1
        ),
        "a large bad body": {"input_ids": ["a"] * 3_000_000},
        "slow stop patterns": generate_body("aaaa", max_new_tokens=40, **slow),
    }
    server.post("/flush_cache")
    asked: dict[str, tuple[int, float, float]] = {}

    def ask() -> None:
        for name, sent in bodies.items():
            began = time.monotonic()
            status = server.post("/generate", sent).status_code
            asked[name] = status, began, time.monotonic()

    asking = threading.Thread(target=ask)
    times: list[float] = []
    said = ""
    with server.stream(PROMPT, max_new_tokens=4000, ignore_eos=True) as events:
        for number, event in enumerate(events):
            times.append(time.monotonic())
            said = event["text"]
            if number == 10:
                asking.start()
            elif number > 10 and not asking.is_alive():
                break
    asking.join()
    assert said.startswith(alone) or alone.startswith(said)
    gaps = list(itertools.pairwise(times))
    usual = sorted(later - earlier for earlier, later in gaps[:10])[5]
    for name, (_, began, ended) in asked.items():
        # Gaps that began before belong to the one before.
        gap = max(later - earlier for earlier, later in gaps if began < earlier < ended)
        print(f"{name} took {ended - began:.1f} s, largest gap {gap:.2f} s, usually {usual:.2f} s")
        assert gap < max(1, (ended - began) / 2)
    assert [status for status, _, _ in asked.values()] == [200, 400, 400, 400]


def peak_megabytes(server: EmbeddedServer) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) // 1024


@pytest.mark.model
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_huge_text_is_refused_without_being_tokenized(server: EmbeddedServer) -> None:
    huge = "hello wor " * 1_500_000
    before = peak_megabytes(server)
    began = time.monotonic()
    refused = server.post("/generate", generate_body(huge))
    print(f"refused within {time.monotonic() - began:.1f} s")
    assert refused.status_code == 400
    assert re.match(
        r"The input \(at least \d+ tokens\) is longer than the model's context length \(8192 tokens\)\.",
        refused.json()["error"]["message"],
    )
    too_much = server.post("/tokenize", {"prompt": huge})
    assert too_much.status_code == 413
    assert "15000000 characters are too many to tokenize at once" in too_much.json()["message"]
    grown = peak_megabytes(server) - before
    print(f"the peak of its memory grew by {grown} MB")
    assert grown < 400


@pytest.mark.model
def test_the_longest_text_that_may_fit_is_tokenized(server: EmbeddedServer) -> None:
    # A line break and 80 spaces are the longest token of this vocabulary.
    refused = server.post("/generate", generate_body(("\n" + " " * 80) * 8192))
    assert "The input (8192 tokens) is longer" in refused.json()["error"]["message"]


def spans(path: Path) -> list[str]:
    with gzip.open(path, "rt") as trace:
        events = json.load(trace)["traceEvents"]
    return [event["name"] for event in events if str(event.get("name", "")).startswith("step[")]


EXTEND, DECODE = r"step\[EXTEND bs=\d+ toks=\d+\]", r"step\[DECODE bs=\d+\]"


@pytest.mark.model
def test_profiles(server: EmbeddedServer, tmp_path: Path) -> None:
    server.wait_idle()
    # SGLang's own tool sends its numbers as texts.
    options = {"output_dir": str(tmp_path), "num_steps": "4", "with_stack": False, "profile_id": "mine"}
    assert server.post("/start_profile", options).status_code == 200
    assert server.post("/start_profile", options).status_code == 500
    server.generate(PROMPT, max_new_tokens=6)
    (whole,) = tmp_path.iterdir()
    assert whole.name == "mine-TP-0.trace.json.gz"
    steps = spans(whole)
    assert re.fullmatch(EXTEND, steps[0])
    assert [bool(re.fullmatch(DECODE, step)) for step in steps] == [False, True, True, True]
    assert server.post("/stop_profile").status_code == 500

    staged = options | {"profile_by_stage": True, "num_steps": 2, "profile_prefix": "staged"}
    assert server.post("/start_profile", staged).status_code == 200
    server.generate(PROMPT, max_new_tokens=6)
    extend, decode = (tmp_path / f"staged-mine-TP-0-{stage}.trace.json.gz" for stage in ("EXTEND", "DECODE"))
    assert [bool(re.fullmatch(EXTEND, step)) for step in spans(extend)] == [True]
    assert [bool(re.fullmatch(DECODE, step)) for step in spans(decode)] == [True, True]
    assert server.post("/stop_profile").status_code == 500

    by_hand = {"output_dir": str(tmp_path / "new" / "folder"), "record_shapes": False, "with_stack": False}
    assert server.get("/start_profile").status_code == 200
    assert server.post("/stop_profile").status_code == 200
    assert server.post("/start_profile", by_hand).status_code == 200
    server.generate(PROMPT, max_new_tokens=2)
    assert server.post("/stop_profile").text.startswith("Stop profiling.")
    (found,) = (tmp_path / "new" / "folder").iterdir()
    assert len(spans(found)) == 2


def test_a_profile_that_cannot_be_written_fails_no_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    profiler = StepProfiler()
    profiler.start(
        ProfileOptions(output_dir=str(tmp_path / "gone"), num_steps=1, with_stack=False, profile_id="x")
    )
    shutil.rmtree(tmp_path / "gone")
    with profiler.step(DecodeStep(())):
        pass
    assert "the profile could not be written" in caplog.text
    assert not profiler.active


@pytest.mark.model
def test_metrics_count(server: EmbeddedServer) -> None:
    def read() -> dict[str, float]:
        answer = server.get("/metrics")
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        samples = [
            sample for family in text_string_to_metric_families(answer.text) for sample in family.samples
        ]
        assert all("model_name" in sample.labels for sample in samples)
        return {sample.name: sample.value for sample in samples if "le" not in sample.labels}

    server.wait_idle()
    before = read()
    server.generate([PROMPT, "2+2="], max_new_tokens=5, ignore_eos=True)
    server.events(PROMPT, max_new_tokens=3)
    wait_until(lambda: read()["sglang:num_requests_total"] == before["sglang:num_requests_total"] + 3)
    after = read()
    grown = {name: after[name] - before[name] for name in before if after[name] != before[name]}
    print(grown)
    assert grown["sglang:num_requests_total"] == 3
    assert grown["sglang:generation_tokens_total"] == 13
    assert grown["sglang:prompt_tokens_total"] == 14
    assert grown["sglang:time_to_first_token_seconds_count"] == 3
    assert grown["sglang:e2e_request_latency_seconds_count"] == 3
    assert after["sglang:num_running_reqs"] == 0


# --- start and end -----------------------------------------------------------------------------------


def refused(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nbruntime.embedded", *flags],
        capture_output=True,
        text=True,
        timeout=60,
        env={name: value for name, value in os.environ.items() if not name.startswith("NBRUNTIME_")},
    )


def test_other_machines_need_a_key() -> None:
    done = refused("--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 2
    assert "no API key is set" in done.stderr
    assert "NBRUNTIME_API_KEY" in done.stderr


def test_keys_are_not_taken_from_the_command_line() -> None:
    done = refused("--api-key", "sk-test")
    assert done.returncode == 2
    assert "unrecognized arguments" in done.stderr


@pytest.mark.model
def test_a_taken_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = refused("--port", str(port))
    assert done.returncode == 1
    assert f"Cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr
    assert "Give another --port" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("port", ["99999", "-1"])
def test_an_invalid_port(port: str) -> None:
    done = refused("--port", port)
    assert done.returncode == 2
    assert f"--port must be in [0, 65535], got {port}" in done.stderr


@pytest.mark.parametrize(
    ("flag", "value", "least"),
    [
        ("--threads", 0, 1),
        ("--stream-interval", 0, 1),
        ("--max-queued-requests", -1, 0),
        ("--max-body-bytes", 0, 1),
    ],
)
def test_an_argument_below_its_minimum(
    flag: str, value: int, least: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_arguments([f"{flag}={value}"])
    assert f"{flag} must be at least {least}, got {value}" in capsys.readouterr().err


@pytest.mark.model
@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--tokenizer-path", "/nonexistent", "error: ModelNotFoundError: The tokenizer in /nonexistent"),
        (
            "--context-length",
            "10000",
            "error: LaunchError: --context-length 10000 is more than the model's 8192",
        ),
        (
            "--max-total-tokens",
            "99999999999",
            "error: LaunchError: Not enough memory for a KV cache of 99999999999",
        ),
    ],
)
def test_a_failed_start_is_reported_in_two_lines(flag: str, value: str, said: str) -> None:
    done = refused(flag, value, "--port", "0")
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.model
@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_ipv6_loopback() -> None:
    server = EmbeddedServer("--host", "::1")
    try:
        assert server.url.startswith("http://[::1]:")
        assert server.get("/health").status_code == 503
    finally:
        server.close()


@pytest.mark.model
def test_sigterm_while_loading() -> None:
    for phase in ("starting", "loading weights"):
        server = EmbeddedServer("--dtype", "float32")
        try:
            server.wait_for(f"phase: {phase}")
            if phase == "loading weights":
                assert server.get("/health").status_code == 503
                early = server.post("/generate", generate_body(PROMPT))
                assert early.status_code == 503
                assert "starting (loading" in early.json()["message"]
        finally:
            code, took = server.close()
        print(f"ended within {took:.2f} s while {phase}")
        assert code == 0, server.log
        assert took < 4


@pytest.mark.model
def test_sigterm_while_generating() -> None:
    server = EmbeddedServer("--dtype", "float32").ready()
    try:
        long = generate_body(PROMPT, max_new_tokens=4000, ignore_eos=True)
        with (
            ThreadPoolExecutor(3) as pool,
            server.stream(PROMPT, max_new_tokens=4000, ignore_eos=True) as events,
        ):
            plain = [pool.submit(server.post, "/generate", long) for _ in range(2)]
            wait_until(lambda: server.load()["num_running_reqs"] == 3)
            next(events)
            pool.submit(server.post, "/generate", generate_body(STORY * 100, max_new_tokens=2))
            code, took = server.close()
            last = list(events)[-1]
            answers = [each.result() for each in plain]
    finally:
        server.close()
    print(f"ended within {took:.2f} s")
    assert code == 0, server.log
    assert took < 4
    assert last["meta_info"]["finish_reason"]["message"] == "The server shuts down."
    assert last["text"].startswith(" Paris")
    assert {answer.status_code for answer in answers} == {503}
    assert "Traceback" not in server.log


@pytest.mark.model
def test_sigterm_while_tokenizing() -> None:
    server = EmbeddedServer("--dtype", "float32").ready()
    try:
        with ThreadPoolExecutor(8) as pool:
            large = {"prompt": "hello wor " * 100_000}
            asked = [pool.submit(server.post, "/tokenize", large) for _ in range(8)]
            asked[0].exception()  # until the first is done and the others wait
            code, took = server.close()
    finally:
        server.close()
    print(f"ended within {took:.2f} s")
    assert code == 0, server.log
    assert took < 4
