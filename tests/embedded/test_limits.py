"""Keys and limits: which requests the embedded server refuses, and how it works within a small cache."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.embedded_server import PROMPT, STORY, EmbeddedServer
from support.server_client import generate_body, wait_until

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
                assert answer.status_code == (404 if path == "/metrics" else 200)  # they are switched off
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
    large = json.dumps(generate_body(PROMPT, max_new_tokens=2, stop="x" * 60_000)).encode()
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
def test_a_single_prompt_is_admitted_before_the_rest_of_a_batch(guarded_server: EmbeddedServer) -> None:
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
