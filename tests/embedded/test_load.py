"""Many requests at once, requests that are left or aborted, and the cached prefixes."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from support.embedded_server import PROMPT, STORY, EmbeddedServer
from support.server_client import generate_body, wait_until


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
def test_a_request_is_aborted_when_its_client_disconnects(server: EmbeddedServer, stream: bool) -> None:
    server.wait_idle()
    address = urlsplit(server.url)
    sent = json.dumps(
        generate_body(PROMPT, {"stream": stream}, max_new_tokens=4000, ignore_eos=True)
    ).encode()
    head = [
        "POST /generate HTTP/1.1",
        f"Host: {address.netloc}",
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
        # Gaps that began before belong to the one before, unless a short request lies within one.
        inside = [(earlier, later) for earlier, later in gaps if began < earlier < ended]
        around = [(earlier, later) for earlier, later in gaps if earlier <= began < later]
        gap = max(later - earlier for earlier, later in inside or around)
        print(f"{name} took {ended - began:.1f} s, largest gap {gap:.2f} s, usually {usual:.2f} s")
        assert gap < max(1, (ended - began) / 2)
    assert [status for status, _, _ in asked.values()] == [200, 400, 400, 400]
