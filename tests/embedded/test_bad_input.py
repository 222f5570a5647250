"""Bad input: the server answers with SGLang's status and body, and other requests continue."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.embedded_server import PROMPT, EmbeddedServer, witness
from support.server_client import generate_body


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
        b"POST /generate HTTP/1.1\r\nHost: [::1]\r\nContent-Length: -5\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /generate HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 100\r\n\r\n{",  # and no more
        b"POST /generate HTTP/1.1\r\nHost: [::1]\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [::1]\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
        b"GET /v1/models/%ff%00 HTTP/1.1\r\nHost: [::1]\r\n\r\n",
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
