"""Events per second of the client's own CPU time, for streams of 2,000 tokens.

Compares our blocking and asynchronous clients with a bare loop over requests and aiohttp that splits
lines and calls `json.loads`. A server process writes the same cumulative stream to all of them as fast as
they read, so what is measured is the client's CPU time, not the network or a model.

    python benchmarks/streaming_client.py [--tokens 2000] [--rounds 5] [--incremental]
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
from collections.abc import Callable

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


def read(line: bytes, position: int) -> str:
    return str(json.loads(line[5:])["text"][position:])


def bare_requests_lines(url: str, incremental: bool) -> str:
    """Read as SGLang's own client does, by `iter_lines` and `json.loads`."""
    parts, position = [], 0
    with requests.post(
        f"{url}/generate", json={"text": "x", "stream": True}, stream=True, timeout=60
    ) as response:
        for line in response.iter_lines(decode_unicode=False):
            if line.startswith(b"data:") and line != b"data: [DONE]":
                text = read(line, position)
                position += 0 if incremental else len(text)
                parts.append(text)
    return "".join(parts)


def bare_requests_chunks(url: str, incremental: bool) -> str:
    """Read as fast as a bare loop can: whole chunks, split at line ends."""
    parts, position, rest = [], 0, b""
    with requests.post(
        f"{url}/generate", json={"text": "x", "stream": True}, stream=True, timeout=60
    ) as response:
        for chunk in response.iter_content(chunk_size=None):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.startswith(b"data:") and line != b"data: [DONE]":
                    text = read(line, position)
                    position += 0 if incremental else len(text)
                    parts.append(text)
    return "".join(parts)


def our_endpoint(url: str, incremental: bool) -> str:
    with RuntimeEndpoint(url) as endpoint, endpoint.stream("x") as stream:
        return "".join(stream)


async def bare_aiohttp(url: str, incremental: bool) -> str:
    parts, position = [], 0
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/generate", json=BODY) as response,
    ):
        async for line in response.content:
            if line.startswith(b"data:") and line != b"data: [DONE]\n":
                text = read(line, position)
                position += 0 if incremental else len(text)
                parts.append(text)
    return "".join(parts)


async def our_async(url: str, incremental: bool) -> str:
    async with AsyncRuntimeEndpoint(url) as endpoint, await endpoint.stream("x") as stream:
        return "".join([text async for text in stream])


CLIENTS: dict[str, Callable[[str, bool], str]] = {
    "requests, iter_lines + json.loads": bare_requests_lines,
    "requests, chunks + json.loads": bare_requests_chunks,
    "nbruntime, RuntimeEndpoint.stream": our_endpoint,
    "aiohttp, lines + json.loads": lambda url, incremental: asyncio.run(bare_aiohttp(url, incremental)),
    "nbruntime, asynchronous": lambda url, incremental: asyncio.run(our_async(url, incremental)),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--incremental", action="store_true", help="a stream of parts instead of whole texts")
    arguments = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=serve, args=(arguments.tokens, arguments.incremental, theirs), daemon=True
    )
    process.start()
    try:
        url = f"http://127.0.0.1:{ours.recv()}"
        _, expected = events(arguments.tokens, incremental=arguments.incremental)
        spent: dict[str, list[float]] = {name: [] for name in CLIENTS}
        for _ in range(arguments.rounds + 1):
            for name, client in CLIENTS.items():
                before = time.process_time()
                text = client(url, arguments.incremental)
                spent[name].append(time.process_time() - before)
                assert text == expected, f"{name} has another text"
    finally:
        process.terminate()
        process.join()

    kind = "incremental" if arguments.incremental else "cumulative"
    print(f"{arguments.tokens} tokens, {kind}; median of {arguments.rounds} rounds after one to warm up")
    rate = {name: arguments.tokens / statistics.median(times[1:]) for name, times in spent.items()}
    for name, value in rate.items():
        print(f"  {name:36} {value:10,.0f} events per CPU second")
    lines, chunks, blocking, loop, asynchronous = rate.values()
    print(f"  ratio blocking: {blocking / max(lines, chunks):.2f} of the faster bare loop")
    print(f"  ratio async:    {asynchronous / loop:.2f} of the bare loop")


if __name__ == "__main__":
    main()
