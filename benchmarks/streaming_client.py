"""Events per second of the client's own CPU time, next to a bare loop over the same stream.

The peers are what a user would write: `iter_lines` of requests, or the lines of aiohttp, and `json.loads`. A
server process writes the same stream to all of them as fast as they read, so what is measured is the
client's CPU time, not the network or a model. Each of the eight streams (200 and 2,000 tokens, cumulative
and incremental, blocking and asynchronous) is read by clients made for it, as in a script, and by clients
that are kept, as in a notebook. Peer and client take turns; every figure is a median, every ratio that of
the medians, so above 1 nbruntime is faster.

    python benchmarks/streaming_client.py [--tokens 200 2000] [--rounds 15]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import multiprocessing.connection
import random
import socketserver
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import requests

from nbruntime.endpoint import AsyncRuntimeEndpoint, RuntimeEndpoint

BODY = {"text": "x", "stream": True}
WORDS = [" the", " city", " of", " learning", ",", ".", "\n", " café", " 世界", ' "quoted"']


def events(tokens: int, *, incremental: bool) -> tuple[list[bytes], str]:
    """Make the stream of a server: its events, and the text that they make."""
    choose = random.Random(0)
    words = [choose.choice(WORDS) for _ in range(tokens)]
    ids = [choose.randrange(49_152) for _ in range(tokens)]
    made = []
    for n in range(1, tokens + 1):
        first = n - 1 if incremental else 0
        event = {
            "text": "".join(words[first:n]),
            "output_ids": ids[first:n],
            "meta_info": {
                "id": "18fc262d208643acaf5e4f2ea61deb10",
                "finish_reason": {"type": "length", "length": tokens} if n == tokens else None,
                "prompt_tokens": 5,
                "weight_version": "default",
                "num_retractions": 0,
                "queue_time": 0.0003922310002053564,
                "reasoning_tokens": 0,
                "completion_tokens": n,
                "cached_tokens": 4,
                "cached_tokens_details": {"device": 4, "host": 0},
                "dp_rank": None,
            },
        }
        text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
        made.append(f"data: {text}\n\n".encode())
    return [*made, b"data: [DONE]\n\n"], "".join(words)


def serve(tokens: int, incremental: bool, tell: multiprocessing.connection.Connection) -> None:
    """Run the server: every answer to a POST is the stream, one HTTP chunk per event."""
    made, _ = events(tokens, incremental=incremental)
    chunks = [b"%x\r\n%b\r\n" % (len(event), event) for event in made]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    info = b'{"model_path":"none"}'
    json_head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"

    class Handler(socketserver.StreamRequestHandler):
        disable_nagle_algorithm = True

        def handle(self) -> None:
            while request := self.rfile.readline():
                length = 0
                while (line := self.rfile.readline()).strip():
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                self.rfile.read(length)
                if request.startswith(b"POST /generate"):
                    self.wfile.write(head)
                    for chunk in chunks:
                        self.wfile.write(chunk)
                    self.wfile.write(b"0\r\n\r\n")
                else:
                    self.wfile.write(json_head % len(info) + info)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with Server(("127.0.0.1", 0), Handler) as server:
        tell.send(server.server_address[1])
        server.serve_forever()


def new_text(line: bytes, position: int) -> str:
    return str(json.loads(line[5:])["text"][position:])


def bare_requests(url: str, incremental: bool, session: Any) -> str:
    parts, position = [], 0
    with session.post(f"{url}/generate", json=BODY, stream=True, timeout=60) as response:
        for line in response.iter_lines():
            if line.startswith(b"data:") and line != b"data: [DONE]":
                text = new_text(line, position)
                position += 0 if incremental else len(text)
                parts.append(text)
    return "".join(parts)


def our_endpoint(endpoint: RuntimeEndpoint) -> str:
    with endpoint.stream("x") as stream:
        return "".join(stream)


async def bare_aiohttp(url: str, incremental: bool, session: aiohttp.ClientSession) -> str:
    parts, position = [], 0
    async with session.post(f"{url}/generate", json=BODY) as response:
        async for line in response.content:
            if line.startswith(b"data:") and line != b"data: [DONE]\n":
                text = new_text(line, position)
                position += 0 if incremental else len(text)
                parts.append(text)
    return "".join(parts)


async def our_async_endpoint(endpoint: AsyncRuntimeEndpoint) -> str:
    async with await endpoint.stream("x") as stream:
        return "".join([text async for text in stream])


Read = Callable[[], str]
"""Reads the stream once, and returns its text."""


@contextmanager
def blocking_new(url: str, incremental: bool) -> Iterator[tuple[Read, Read]]:
    def ours() -> str:
        with RuntimeEndpoint(url) as endpoint:
            return our_endpoint(endpoint)

    yield lambda: bare_requests(url, incremental, requests), ours


@contextmanager
def blocking_kept(url: str, incremental: bool) -> Iterator[tuple[Read, Read]]:
    with requests.Session() as session, RuntimeEndpoint(url) as endpoint:
        yield lambda: bare_requests(url, incremental, session), lambda: our_endpoint(endpoint)


@contextmanager
def async_new(url: str, incremental: bool) -> Iterator[tuple[Read, Read]]:
    async def bare() -> str:
        async with aiohttp.ClientSession() as session:
            return await bare_aiohttp(url, incremental, session)

    async def ours() -> str:
        async with AsyncRuntimeEndpoint(url) as endpoint:
            return await our_async_endpoint(endpoint)

    yield lambda: asyncio.run(bare()), lambda: asyncio.run(ours())


@contextmanager
def async_kept(url: str, incremental: bool) -> Iterator[tuple[Read, Read]]:
    async def opened() -> tuple[aiohttp.ClientSession, AsyncRuntimeEndpoint]:
        return aiohttp.ClientSession(), await AsyncRuntimeEndpoint(url).connect()

    with asyncio.Runner() as runner:
        session, endpoint = runner.run(opened())
        yield (
            lambda: runner.run(bare_aiohttp(url, incremental, session)),
            lambda: runner.run(our_async_endpoint(endpoint)),
        )
        runner.run(session.close())
        runner.run(endpoint.close())


CLIENTS = {
    "blocking, new client": blocking_new,
    "blocking, kept client": blocking_kept,
    "async, new client": async_new,
    "async, kept client": async_kept,
}


def rates(readers: tuple[Read, ...], tokens: int, expected: str, rounds: int) -> list[float]:
    """Let readers take turns; return the events per CPU second of each."""
    spent: list[list[float]] = [[] for _ in readers]
    for _ in range(rounds + 2):
        for read, times in zip(readers, spent, strict=True):
            before = time.process_time()
            text = read()
            times.append(time.process_time() - before)
            assert text == expected, "a client has another text"
    return [tokens / statistics.median(times[2:]) for times in spent]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    print(f"events per CPU second; median of {arguments.rounds} rounds after two to warm up")
    print(f"{'tokens':>6} {'stream':12} {'client':22} {'bare loop':>10} {'nbruntime':>10} {'ratio':>6}")
    for tokens in arguments.tokens:
        for incremental in (False, True):
            kind = "incremental" if incremental else "cumulative"
            _, expected = events(tokens, incremental=incremental)
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(tokens, incremental, theirs), daemon=True)
            process.start()
            try:
                url = f"http://127.0.0.1:{ours.recv()}"
                for name, make in CLIENTS.items():
                    with make(url, incremental) as readers:
                        bare, mine = rates(readers, tokens, expected, arguments.rounds)
                    ratio = mine / bare
                    print(f"{tokens:6} {kind:12} {name:22} {bare:10,.0f} {mine:10,.0f} {ratio:6.2f}")
            finally:
                process.terminate()
                process.join()


if __name__ == "__main__":
    main()
